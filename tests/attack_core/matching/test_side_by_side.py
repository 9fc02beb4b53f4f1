"""Several victims in one program: each finds what it finds alone, up to rounding."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from attack_core.attacks.auto import Auto
from attack_core.base.search import Search, side_by_side
from attack_core.base.types import Attack, AttackFailed, Reconstruction
from attack_core.gradients.objectives import Both, Cosine
from attack_core.local_sgd.simulation import Simulated
from attack_core.matching.candidates import EarlyStop
from attack_core.matching.matching import Matching
from attack_core.metrics.controls import norm_matched_noise
from attack_core.priors.priors import Wavelet
from fl_core.base.rng import generator
from fl_core.data.dataset import ImageDataset
from fl_core.models.build import build_model
from fl_core.models.config import ModelConfig
from fl_core.threat.observation import Observation
from tests.support.matched import counted_questions, observed

CNN = ModelConfig(kind="cnn64", image_size=16)
PLAIN = Matching(iterations=12, lr=0.1, tv_weight=1e-4)


def victims(faces: ImageDataset, count: int, model: ModelConfig = CNN, **options: Any) -> list[Observation]:
    return [observed(faces, model, client=client, **options)[0] for client in range(count)]


def searches(attack: Attack, seen: list[Observation]) -> list[Search[Reconstruction]]:
    return [
        attack.search(each, build_model(each.model), generator("attack", i)) for i, each in enumerate(seen)
    ]


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    return counted_questions(monkeypatch)


def assert_alike(one: Reconstruction, other: Reconstruction) -> None:
    torch.testing.assert_close(one.history, other.history, rtol=2e-2, atol=1e-5, equal_nan=True)
    torch.testing.assert_close(one.images, other.images, rtol=0, atol=2e-2)
    assert torch.equal(one.labels, other.labels)
    assert (one.iterations, one.work, one.failed) == (other.iterations, other.work, other.failed)


@pytest.mark.parametrize(
    "attack",
    [
        PLAIN,
        replace(PLAIN, objective=Cosine(), restarts=3, lr=(0.05, 0.1, 0.2)),
        replace(PLAIN, objective=Both(), labels="optimize", priors=(Wavelet(weight=1e-3),)),
        replace(PLAIN, restarts=3, packing=2, early_stop=EarlyStop(patience=3, min_delta=1e-3)),
        replace(PLAIN, parametrisation="deep_prior", clamp=None, lr=0.001),
    ],
    ids=["l2", "cosine, restarts", "labels, priors", "packed, early stop", "deep prior"],
)
def test_one_among_others_finds_what_it_finds_alone(
    faces: ImageDataset, attack: Matching, passes: list[int]
) -> None:
    seen = victims(faces, 4)
    single = [attack(each, build_model(each.model), generator("attack", i)) for i, each in enumerate(seen)]
    assert set(passes) == {1}
    passes.clear()
    for one, other in zip(side_by_side(searches(attack, seen)), single, strict=True):
        assert_alike(one.result(), other)
    assert max(passes) == 4


def test_batches_and_other_suggestions_share_a_program(faces: ImageDataset, passes: list[int]) -> None:
    seen = victims(faces, 2, batch=2)
    attacks = [PLAIN, replace(PLAIN, lr=0.3, tv_weight=0.0, objective=Cosine(), iterations=5)]
    pairs = list(zip(attacks, seen, strict=True))
    single = [attack(each, build_model(each.model), generator("attack")) for attack, each in pairs]
    passes.clear()
    found = side_by_side([a.search(each, build_model(each.model), generator("attack")) for a, each in pairs])
    for one, other in zip(found, single, strict=True):
        assert_alike(one.result(), other)
    # The shorter one takes a last look after its five iterations; then the other is alone.
    assert passes == [2] * 6 + [1] * 7


def test_a_trial_and_its_control_share_a_program(faces: ImageDataset, passes: list[int]) -> None:
    (seen,) = victims(faces, 1)
    noise = norm_matched_noise(seen, generator("control"))
    for ended in side_by_side(searches(PLAIN, [seen, noise])):
        ended.result()
    assert set(passes) == {2}


def test_other_weights_and_other_steps_are_evaluated_apart(faces: ImageDataset, passes: list[int]) -> None:
    first, second = victims(faces, 2)
    state = second.state
    moved = replace(state, parameters={name: value + 1e-3 for name, value in state.parameters.items()})
    for ended in side_by_side(searches(PLAIN, [first, replace(second, state=moved)])):
        ended.result()
    assert set(passes) == {1}
    passes.clear()
    simulated = replace(PLAIN, local=Simulated(), iterations=2)
    several = victims(faces, 2, signal="local_update")
    for ended in side_by_side(searches(simulated, several)):
        ended.result()
    assert set(passes) == {1}


def test_a_victim_that_fails_leaves_the_others_alone(faces: ImageDataset) -> None:
    first, second = victims(faces, 2)
    broken = replace(PLAIN, lr=1e30, clamp=None, iterations=6, objective=Both())
    found = side_by_side(
        [
            broken.search(first, build_model(CNN), generator("attack")),
            PLAIN.search(second, build_model(CNN), generator("attack")),
        ]
    )
    assert_alike(found[1].result(), PLAIN(second, build_model(CNN), generator("attack")))
    with pytest.raises(AttackFailed):
        found[0].result()


def test_auto_matches_together_where_it_chooses_matching(faces: ImageDataset, passes: list[int]) -> None:
    seen = victims(faces, 2, ModelConfig(kind="resnet20", image_size=16), batch=2)
    attack = Auto(fallback=replace(PLAIN, iterations=3))
    for ended in side_by_side(searches(attack, seen)):
        assert ended.result().outcome == "matching"
    assert max(passes) == 2


def test_on_a_gpu_the_loop_reads_a_number_every_so_often(faces: ImageDataset, monkeypatch: Any) -> None:
    """The same figures where ended restarts are noticed late: they are evaluated in vain, and do not count."""
    (seen,) = victims(faces, 1)
    attack = replace(PLAIN, iterations=30, restarts=3, early_stop=EarlyStop(patience=2, min_delta=1e-2))
    plain = attack(seen, build_model(CNN), generator("attack"))
    monkeypatch.setattr("attack_core.matching.loop.search.looks_every", lambda device: 16)  # noqa: ARG005
    late = attack(seen, build_model(CNN), generator("attack"))
    assert bool(plain.history.isnan().any())
    torch.testing.assert_close(
        late.history[: plain.iterations], plain.history, rtol=2e-2, atol=1e-5, equal_nan=True
    )
    torch.testing.assert_close(late.images, plain.images, rtol=0, atol=2e-2)
