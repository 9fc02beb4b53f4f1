"""The matching attack: it reconstructs, on every model and signal; its options do what they say."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from attack_core.base.types import AttackFailed
from attack_core.gradients.objectives import L2, Both, Cosine, Similarity
from attack_core.gradients.targets import gradient_estimate
from attack_core.matching.candidates import EarlyStop
from attack_core.matching.matching import Matching
from attack_core.matching.schedules import rate_factor
from attack_core.metrics.controls import norm_matched_noise
from attack_core.metrics.metrics import psnr
from attack_core.signal.inits import initial_images
from attack_core.signal.labels import idlg
from defenses.chain import Chain
from defenses.dp.local import DPUpdate
from fl_core.base.errors import InputError
from fl_core.base.rng import generator
from fl_core.base.shape import ImageShape
from fl_core.data.dataset import ImageDataset
from fl_core.federation.rounds import FederationConfig
from fl_core.models.build import build_model, initial_state
from fl_core.models.config import ModelConfig
from fl_core.threat.captures import Victim, capture
from fl_core.threat.model import ThreatModel
from fl_core.threat.observation import Observation, observe
from tests.support.federations import make_federation
from tests.support.matched import NoFloat64, attacked, grey, observed, score


@pytest.mark.parametrize(
    ("kind", "size", "margin", "options"),
    [
        ("cnn64", 16, 6.0, {"tv_weight": 1e-5}),
        ("lenet", 16, 2.0, {"tv_weight": 1e-4, "iterations": 150}),
        ("mlp", 16, 6.0, {}),
        # The stem and 17 layers down to one pixel leave a 32x32 image hardly any trace: the loss falls, the
        # picture comes only just above grey. The margin says so; it is a floor, not a goal.
        pytest.param(
            "resnet18",
            32,
            0.1,
            {"lr": 0.05, "tv_weight": 1e-5, "objective": Similarity(), "iterations": 30},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_attack_beats_grey_and_its_own_prior_on_every_model(
    faces_root: Any, kind: str, size: int, margin: float, options: dict[str, Any]
) -> None:
    from fl_core.data.kinds.celeba import open_celeba

    dataset = open_celeba(faces_root, shape=ImageShape.square(size))
    observation, truth = observed(dataset, ModelConfig(kind=kind, image_size=size))  # type: ignore[arg-type]
    found = attacked(observation, **options)
    noise = attacked(norm_matched_noise(observation, generator("noise")), **options)
    mine = score(found.images, truth.images)
    assert mine > grey(truth.images) + margin
    assert mine > score(noise.images, truth.images) + min(margin, 1.0)
    assert found.images.dtype == torch.float32
    assert found.images.abs().max() <= 1.0


@pytest.mark.parametrize("signal", ["gradients", "one_step_update", "local_update", "agg_update"])
def test_every_signal_is_attackable(faces: ImageDataset, signal: str) -> None:
    observation, truth = observed(faces, signal=signal)
    found = attacked(
        observation, images=1 if signal in ("gradients", "one_step_update") else 4, iterations=120
    )
    assert score(found.images, truth.images) > grey(truth.images)
    assert len(found.images) == (1 if signal in ("gradients", "one_step_update") else 4)


def test_one_step_update_is_as_good_as_the_gradient(faces: ImageDataset) -> None:
    gradient, truth = observed(faces)
    step, _ = observed(faces, signal="one_step_update")
    for name, value in gradient_estimate(step).items():
        torch.testing.assert_close(value, gradient.tensors[name], rtol=1e-2, atol=1e-5)
    a, b = (score(attacked(o).images, truth.images) for o in (gradient, step))
    assert abs(a - b) < 1.0


def test_estimate_divides_by_the_path_that_momentum_travels(faces: ImageDataset) -> None:
    observation, _ = observed(faces)
    constant = {name: torch.ones_like(value) for name, value in observation.tensors.items()}
    velocity = travelled = 0.0
    for _ in range(3):
        velocity = 0.5 * velocity + 1.0
        travelled += 0.1 * velocity
    delta = {name: -travelled * value for name, value in constant.items()}
    moved = dataclasses.replace(
        observation, signal="local_update", tensors=delta, steps=3, lr=0.1, momentum=0.5
    )
    torch.testing.assert_close(gradient_estimate(moved), constant)


def test_batches_with_known_and_with_optimised_labels(faces: ImageDataset) -> None:
    for labels in ("known", "unknown"):
        observation, truth = observed(faces, batch=2, labels=labels)
        found = attacked(observation, iterations=150)
        assert found.images.shape == truth.images.shape
        assert found.labels.shape == (2,)
        assert score(found.images, truth.images) > grey(truth.images) + 1.0
        if labels == "known":
            assert torch.equal(found.labels, truth.labels)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "lbfgs"])
@pytest.mark.parametrize("objective", [L2(), Cosine(), Both(), Similarity()], ids=lambda o: o.kind)
def test_every_optimizer_lowers_every_objective(faces: ImageDataset, optimizer: str, objective: Any) -> None:
    observation, _ = observed(faces)
    rate = {"sgd": 1.0, "lbfgs": 1.0}.get(optimizer, 0.05)
    found = attacked(observation, optimizer=optimizer, objective=objective, lr=rate, iterations=25)
    history = found.history[:, 0]
    assert found.loss < float(history[0])
    assert len(history) == found.iterations == 25


def test_restarts_run_together_as_they_would_alone(faces: ImageDataset) -> None:
    observation, _ = observed(faces)
    packed = attacked(observation, restarts=3, iterations=5, lr=(0.05, 0.1, 0.2))
    shape = (3, 1, 3, 16, 16)
    starts = initial_images("normal", shape, std=0.1, generator=generator("attack"))
    for i, rate in enumerate((0.05, 0.1, 0.2)):
        single = _from_start(observation, starts[i : i + 1], lr=rate)
        torch.testing.assert_close(packed.candidates[i], single.candidates[0], rtol=0, atol=1e-3)
    best = packed.history[-1].argmin()
    assert packed.loss <= float(packed.history[-1][best]) * 1.01 + 1e-6


def _from_start(observation: Observation, start: Tensor, *, lr: float) -> Any:
    import attack_core.matching.loop.search as module

    original = module.initial_images
    try:
        module.initial_images = lambda *_, **__: start  # type: ignore[assignment]
        return attacked(observation, iterations=5, lr=lr)
    finally:
        module.initial_images = original


def test_the_same_seed_gives_the_same_images(faces: ImageDataset) -> None:
    observation, _ = observed(faces)
    assert torch.equal(attacked(observation).images, attacked(observation).images)


def test_selection_is_by_loss_and_never_by_truth(faces: ImageDataset) -> None:
    observation, _ = observed(faces)
    found = attacked(observation, restarts=4, iterations=20, lr=(0.001, 0.1, 0.001, 0.001))
    assert torch.equal(found.images, found.candidates[1])


def test_a_candidate_that_is_not_finite_ends_alone(faces: ImageDataset) -> None:
    observation, truth = observed(faces)
    found = attacked(observation, restarts=2, iterations=40, lr=(1e30, 0.1), clamp=None)
    assert found.failed == 1
    assert len(found.candidates) == 1
    assert math.isnan(float(found.history[-1, 0]))
    assert score(found.images, truth.images) > grey(truth.images)
    with pytest.raises(AttackFailed, match="All 2 candidates"):
        attacked(observation, restarts=2, lr=1e30, clamp=None)


def test_early_stop_ends_a_stalled_candidate(faces: ImageDataset) -> None:
    observation, _ = observed(faces)
    stalled = EarlyStop(patience=5, min_delta=1e9)
    assert attacked(observation, early_stop=stalled, iterations=50).iterations == 6
    patient = EarlyStop(patience=49, min_delta=0.0)
    assert attacked(observation, early_stop=patient, iterations=50).iterations == 50


@pytest.mark.parametrize(
    ("preset", "bound"), [("default", 2.0), ("soft", 3.0), ("tight", 1.5), ("none", None)]
)
def test_presets_bound_the_pixels(faces: ImageDataset, preset: str, bound: float | None) -> None:
    from attack_core.matching.loop.problem import problem_of
    from attack_core.matching.loop.search import start

    observation, _ = observed(faces)
    attack = Matching(preset=preset, iterations=1)  # type: ignore[arg-type]
    problem = problem_of(attack, observation, build_model(observation.model), generator(0))
    assert problem.clamp == bound
    candidates = start(attack, problem, observation, generator(0))
    with torch.no_grad():
        candidates.canvases[0].image().fill_(50.0)
    candidates.clamp(problem.clamp)
    assert float(candidates.canvases[0].image().detach().max()) == (50.0 if bound is None else bound)


def test_cosine_schedule_by_hand() -> None:
    factors = [rate_factor("cosine", i, 100) for i in range(100)]
    assert factors[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert factors[10] == pytest.approx(1.0)
    assert factors[55] == pytest.approx(0.01 + 0.99 * 0.5)
    assert rate_factor("cosine", 100, 100) == pytest.approx(0.01)
    assert {rate_factor("none", i, 100) for i in range(100)} == {1.0}


def test_fourier_noise_is_coloured_and_of_the_asked_size() -> None:
    plain, coloured = (
        initial_images(kind, (2, 1, 3, 64, 64), std=0.1, generator=generator(1))
        for kind in ("normal", "fourier")
    )
    for images in (plain, coloured):
        assert float(images.std()) == pytest.approx(0.1, rel=0.03)

    def high_share(images: Tensor) -> float:
        power = torch.fft.fft2(images).abs().square().mean((0, 1, 2))
        return float(power[16:48, 16:48].sum() / power.sum())

    assert high_share(plain) == pytest.approx(0.25, abs=0.03)
    assert high_share(coloured) < 0.02


def test_idlg_finds_every_label(faces: ImageDataset) -> None:
    model = ModelConfig(kind="mlp", image_size=16, classes=2)
    federation = make_federation(faces, model=model, config=FederationConfig(clients=2))
    state = initial_state(model, generator(5))
    for batch in range(8):
        record, truth = capture(
            federation, state, signal="gradients", round_number=0, victim=Victim(client=0, batch=batch)
        )
        assert torch.equal(idlg(observe(record, ThreatModel())), truth.labels)


def test_signals_that_do_not_fit_are_refused_by_tensor_name(faces: ImageDataset) -> None:
    observation, _ = observed(faces)

    def broken(**tensors: Tensor | None) -> Observation:
        merged = {k: v for k, v in (dict(observation.tensors) | tensors).items() if v is not None}
        return dataclasses.replace(observation, tensors=merged)

    cases = {
        "lacks tensor 'fc1.bias'": broken(**{"fc1.bias": None}),
        "tensor 'extra', which the model lacks": broken(extra=torch.zeros(1)),
        r"'fc1.bias' of the signal has shape \(3,\)": broken(**{"fc1.bias": torch.zeros(3)}),
        "'fc1.bias' of the signal holds values that are not finite": broken(
            **{"fc1.bias": torch.full((512,), math.nan)}
        ),
    }
    for message, wrong in cases.items():
        with pytest.raises(InputError, match=message):
            attacked(wrong)
    with pytest.raises(InputError, match="outside 0 to 1"):
        attacked(dataclasses.replace(observation, labels=torch.tensor([7])))
    with pytest.raises(InputError, match="holds 1 images at most"):
        attacked(observation, images=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iterations": 0}, "iterations = 0: must be from 1 to 10,000,000"),
        ({"lr": 0.0}, "lr = 0.0: must be more than 0"),
        ({"lr": (0.1, 0.2)}, "one for each of 1 restarts"),
        ({"tv_weight": -1.0}, "tv_weight = -1.0: must be at least 0"),
        ({"clamp": 0.0}, "clamp = 0.0"),
    ],
)
def test_bad_options_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        Matching(**options)


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("cnn64", marks=pytest.mark.slow),
        "lenet",
        "mlp",
        pytest.param("resnet18", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("defended", [False, True])
def test_nothing_on_the_attack_path_is_float64(faces_root: Any, kind: str, defended: bool) -> None:
    from fl_core.data.kinds.celeba import open_celeba

    dataset = open_celeba(faces_root, shape=ImageShape.square(32))
    with NoFloat64():
        observation, truth = observed(dataset, ModelConfig(kind=kind, image_size=32), batch=2)  # type: ignore[arg-type]
        if defended:
            record, truth = capture(
                make_federation(dataset, model=observation.model),
                observation.state,
                signal="one_step_update",
                round_number=0,
                victim=Victim(client=0),
                defense=Chain(defenses=(DPUpdate(),)).clients(seed=0, plan=FederationConfig(rounds=1)),
            )
            observation = observe(record, ThreatModel())
        # The large network takes seconds for each iteration, and the others show the second one.
        iterations = 1 if kind == "resnet18" else 2
        for objective in (L2(), Cosine(), Both(), Similarity()):
            found = attacked(
                observation, iterations=iterations, restarts=2, objective=objective, init="fourier"
            )
        attacked(observation, iterations=1, optimizer="lbfgs", layer_weights="auto")
        attacked(norm_matched_noise(observation, generator(1)), iterations=1)
        psnr(found.images, truth.images)


def test_the_float64_guard_catches_float64() -> None:
    with pytest.raises(AssertionError, match="float64"), NoFloat64():
        torch.zeros(2).double()
