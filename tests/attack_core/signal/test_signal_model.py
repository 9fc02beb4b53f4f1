"""What an attacker who knows the defense makes of it: masks, ceilings, errors, scales; and what it buys."""

from __future__ import annotations

import dataclasses
import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attack_core.attacks.analytic import Analytic
from attack_core.fc.inversion import completed_input
from attack_core.fc.spear import Inseparable
from attack_core.gradients.comparison.matched import Matched
from attack_core.gradients.handles import DenseHandle, GhostHandle
from attack_core.gradients.objectives import L2
from attack_core.inversion.continuation import Continuation
from attack_core.matching.matching import Matching
from attack_core.metrics.metrics import psnr
from attack_core.signal.signal_model import deviations, largest_withheld, sent_numbers, signal_energy
from defenses.chain import AnyDefense
from defenses.compression.compression import Prune, Quantise
from defenses.mechanism.noise import ClipOnly, NoiseOnly
from fl_core.base.rng import generator, stream
from fl_core.base.types import Truth
from fl_core.data.dataset import ImageDataset
from fl_core.federation.rounds import FederationConfig
from fl_core.models.build import build_model, initial_state
from fl_core.models.config import ModelConfig
from fl_core.threat.facts import Clip, Noise, Quantiser, Sparsity
from fl_core.threat.observation import Observation
from tests.support import defended

CNN = ModelConfig(kind="cnn64", image_size=16)


seen = partial(defended.seen, clients=2, train=8, lr=0.01)


def attacked(observation: Observation, truth: Truth, attack: Analytic | Matching) -> float:
    found = attack(observation, build_model(CNN), generator("attack", 0))
    return float(psnr(found.images, truth.images))


def test_withheld_numbers_are_those_that_are_zero_and_have_a_ceiling(faces: ImageDataset) -> None:
    whole, _ = seen(faces)
    pruned, _ = seen(faces, Prune(ratio=0.9))
    assert sent_numbers(whole) == {}
    masks = sent_numbers(pruned)
    numbers = sum(mask.numel() for mask in masks.values())
    assert sum(int(mask.sum()) for mask in masks.values()) == round(0.1 * numbers)
    for name, mask in masks.items():
        ceiling = largest_withheld(pruned, name)
        assert bool((whole.tensors[name][~mask].abs() <= ceiling).all())
        assert torch.equal(whole.tensors[name][mask], pruned.tensors[name][mask])
    assert sent_numbers(dataclasses.replace(pruned, signal="agg_update", clients=2)) == {}
    assert sent_numbers(dataclasses.replace(pruned, facts=())) == {}


def test_the_ceiling_of_a_delta_is_in_units_of_its_gradient(faces: ImageDataset) -> None:
    pruned, _ = seen(faces, Prune(ratio=0.9, scope="tensor"))
    name = "fc1.weight"
    one = largest_withheld(pruned, name)
    delta = dataclasses.replace(pruned, signal="one_step_update", lr=0.1)
    assert largest_withheld(delta, name) == pytest.approx(one / 0.1)


def test_known_errors_add_up_in_units_of_the_gradient(faces: ImageDataset) -> None:
    observation, _ = seen(faces)
    facts = (
        Noise(distribution="gaussian", sigma=0.3),
        Clip(max_norm=1.0),
        Noise(distribution="laplace", sigma=0.4),
    )
    known = dataclasses.replace(observation, facts=facts)
    assert set(deviations(observation, observation.tensors).values()) == {0.0}
    assert list(deviations(known, known.tensors).values()) == pytest.approx([0.5] * len(known.tensors))
    # Two steps with momentum 0.5 travel 1 + 1.5 times the learning rate.
    moved = dataclasses.replace(known, signal="local_update", steps=2, lr=0.1, momentum=0.5)
    assert list(deviations(moved, known.tensors).values()) == pytest.approx([0.5 / 0.25] * len(known.tensors))
    shared = dataclasses.replace(known, signal="agg_update", clients=4, lr=1.0, momentum=0.0)
    assert list(deviations(shared, known.tensors).values()) == pytest.approx([0.25] * len(known.tensors))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_error_of_rounding_is_what_rounding_does(bits: int) -> None:
    values = torch.rand(200_000, generator=generator("values", 0)) * 2 - 1
    values[0] = 1.0
    update = _update(values)
    rounded = (
        Quantise(bits=bits).on_update(update, stream("round", 0), FederationConfig(rounds=1)).tensors["a"]
    )
    said = deviations(_observation({"a": rounded}, Quantiser(scheme="stochastic", bits=bits)), {"a": rounded})
    assert said["a"] == pytest.approx(float((rounded - values).std()), rel=0.02)


def test_one_bit_of_small_numbers_is_off_by_their_scale() -> None:
    values = 0.05 * torch.randn(200_000, generator=generator("values", 1)).clamp(-4, 4)
    values[0] = 1.0
    rounded = (
        Quantise(bits=1)
        .on_update(_update(values), stream("round", 0), FederationConfig(rounds=1))
        .tensors["a"]
    )
    said = deviations(_observation({"a": rounded}, Quantiser(scheme="stochastic", bits=1)), {"a": rounded})
    assert said["a"] == pytest.approx(float((rounded - values).std()), rel=0.02)


def test_the_energy_beyond_the_noise_tells_signal_from_noise(faces: ImageDataset) -> None:
    """About 0 for noise alone, about |g|^2 / sigma^2 where there is a signal, endless without noise."""
    plain, _ = seen(faces)
    assert math.isinf(signal_energy(plain, plain.tensors))
    norm = sum(float(tensor.square().sum()) for tensor in plain.tensors.values())
    numbers = sum(tensor.numel() for tensor in plain.tensors.values())
    for sigma in (1e-3, 10.0):
        noisy, _ = seen(faces, NoiseOnly(sigma=sigma))
        expected, spread = norm / sigma**2, math.sqrt(2 * numbers + 4 * norm / sigma**2)
        assert abs(signal_energy(noisy, noisy.tensors) - expected) < 5 * spread
        assert signal_energy(noisy, noisy.tensors) < 5 * spread or sigma < 1


def test_the_energy_of_pruned_noise_is_judged_by_what_pruning_keeps(faces: ImageDataset) -> None:
    """The largest of many pure noise numbers are no signal."""
    noisy, _ = seen(faces, NoiseOnly(sigma=10.0), Prune(ratio=0.9))
    kept = sum(int(mask.sum()) for mask in sent_numbers(noisy).values())
    assert abs(signal_energy(noisy, noisy.tensors)) < 0.1 * kept


@given(seed=st.integers(0, 30), share=st.floats(0.3, 1.0))
@settings(max_examples=25, deadline=None)
def test_a_rank_one_gradient_is_completed_from_its_largest_numbers(seed: int, share: float) -> None:
    draws = generator("layer", seed)
    errors, inputs = torch.randn(30, generator=draws), torch.rand(50, generator=draws)
    weight = errors[:, None] * inputs
    both = torch.cat([weight, errors[:, None]], dim=1)
    least = both.abs().flatten().topk(round(share * both.numel())).values.min()
    sent = both.abs() >= least
    kept = both * sent
    found, known = completed_input(kept[:, :-1], kept[:, -1], sent[:, :-1], sent[:, -1])
    assert torch.equal(known, sent[:, :-1].any(dim=0))
    torch.testing.assert_close(found[known], inputs[known], rtol=1e-3, atol=1e-4)
    assert not found[~known].any()


def test_without_a_bias_gradient_the_scale_is_unknown() -> None:
    with pytest.raises(Inseparable, match="scale"):
        completed_input(torch.ones(3, 4), torch.zeros(3), torch.ones(3, 4).bool(), torch.zeros(3).bool())


@pytest.mark.parametrize("batch", [1, 3])
def test_masked_norms_and_distances_are_those_of_the_dense_gradient(batch: int) -> None:
    draws = generator("handles", batch)
    ghost = GhostHandle(torch.randn(2, batch, 4, generator=draws), torch.randn(2, batch, 5, generator=draws))
    dense = DenseHandle(ghost.dense())
    mask = (torch.rand(4, 5, generator=draws) > 0.5).float()
    target = torch.randn(4, 5, generator=draws) * mask
    torch.testing.assert_close(ghost.squared_norm(mask), dense.squared_norm(mask))
    matched = Matched.of({"a": target}, {"a": 1.0}, sent={"a": mask.bool()})
    expected = ((dense.gradient - target) * mask).square().sum((1, 2))
    torch.testing.assert_close(L2().loss(matched.terms({"a": ghost})), expected, rtol=1e-4, atol=1e-5)


def test_under_clipping_distances_are_at_the_best_scale() -> None:
    gradient = torch.randn(1, 6, generator=generator("scale", 0))
    for factor in (0.3, 1.0):
        matched = Matched.of({"a": factor * gradient[0]}, {"a": 1.0}, scaled=True)
        assert float(L2().loss(matched.terms({"a": DenseHandle(gradient)}))) == pytest.approx(0.0, abs=1e-5)
    # An update is never scaled up.
    larger = Matched.of({"a": 2.0 * gradient[0]}, {"a": 1.0}, scaled=True)
    expected = float(gradient.square().sum())
    assert float(L2().loss(larger.terms({"a": DenseHandle(gradient)}))) == pytest.approx(expected, rel=1e-4)


ANALYTIC = Analytic(inversion=Continuation(evaluations=150))
MATCHING = Matching(iterations=120, schedule="cosine", tv_weight=1e-5)


@pytest.mark.parametrize(
    ("defenses", "attack", "least_gain"),
    [
        ((Prune(ratio=0.9),), ANALYTIC, 6.0),
        pytest.param((Prune(ratio=0.9),), MATCHING, 0.3, marks=pytest.mark.slow),
        ((Quantise(bits=4),), ANALYTIC, 3.0),
        pytest.param(
            (ClipOnly(max_norm=0.05),),
            dataclasses.replace(MATCHING, tv_weight=1e-8),
            3.0,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_knowing_the_defense_helps(
    faces: ImageDataset, defenses: tuple[AnyDefense, ...], attack: Analytic | Matching, least_gain: float
) -> None:
    """The same attack on the same signal, told of the defense and not, in dB."""
    told, truth = seen(faces, *defenses)
    untold, _ = seen(faces, *defenses, told=False)
    assert attacked(told, truth, attack) > attacked(untold, truth, attack) + least_gain


def _update(values: torch.Tensor):
    from fl_core.base.types import ClientUpdate

    return ClientUpdate(client=0, tensors={"a": values}, examples=1, steps=1, lr=1.0, momentum=0.0)


def _observation(tensors: dict[str, torch.Tensor], *facts: Quantiser | Sparsity) -> Observation:
    return Observation(
        signal="gradients",
        model=CNN,
        state=initial_state(CNN, generator("model", 0)),
        tensors=tensors,
        examples=1,
        clients=1,
        batch_size=1,
        steps=1,
        lr=1.0,
        momentum=0.0,
        facts=facts,
    )
