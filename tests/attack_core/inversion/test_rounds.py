"""Several rounds of one image under noise: what they say together that none says alone."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from attack_core.attacks.analytic import Analytic
from attack_core.evidence.likelihood_ratio import misfit
from attack_core.fc.inversion import Leading, estimate_error, stacked_input
from attack_core.gradients.objectives import L2
from attack_core.gradients.targets import check_observation
from attack_core.inversion.continuation import Continuation
from attack_core.matching.loop.problem import problem_of
from attack_core.matching.matching import Matching
from attack_core.metrics.controls import norm_matched_noise
from fl_core.base.errors import InputError
from fl_core.base.rng import generator
from fl_core.data.dataset import ImageDataset
from fl_core.models.build import build_model
from tests.support.defended import of_mean, quality
from tests.support.watched import norm_of, watched

QUICK = Analytic(inversion=Continuation(evaluations=60), refinement=Continuation(evaluations=60))


def rounds_of(
    inputs: list[torch.Tensor], sizes: list[float]
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Weight and bias gradients of rounds with these inputs (I,) and error norms, with noise of deviation 1."""
    draws, weights, biases = generator("rounds"), [], []
    for value, size in zip(inputs, sizes, strict=True):
        error = torch.randn(20, generator=draws)
        error *= size / error.norm()
        weights.append(error[:, None] * value + torch.randn(20, len(value), generator=draws))
        biases.append(error + torch.randn(20, generator=draws))
    return weights, biases


def test_rounds_that_hide_the_input_alone_tell_it_together() -> None:
    value = torch.randn(500, generator=generator("input"))
    value *= 5.0 / value.norm()
    weights, biases = rounds_of([value] * 20, [1.5] * 20)
    alone = [estimate_error(*pair, 1.0) for pair in zip(weights, biases, strict=True)]
    inputs, error, parts = stacked_input(weights, biases)
    assert sum(map(math.isinf, alone)) >= 18
    assert error < 1.0
    assert torch.cosine_similarity(inputs, value, dim=0) > 0.7
    assert math.isclose(sum(parts), 1.0, rel_tol=1e-5)


def test_many_rows_have_the_same_leading_vector() -> None:
    draws = generator("many")
    error, value = torch.randn(1200, generator=draws), torch.randn(300, generator=draws)
    weight = 0.05 * error[:, None] * value + torch.randn(1200, 300, generator=draws)
    bias = 0.05 * error + torch.randn(1200, generator=draws)
    whole, quick = Leading.of(weight, bias), Leading.of_many(weight, bias)
    assert quick.square == pytest.approx(whole.square, rel=1e-9)
    assert abs(float(quick.vector @ whole.vector)) == pytest.approx(1.0, abs=1e-5)


def test_the_estimate_is_the_mean_of_inputs_that_moved_by_their_energies() -> None:
    draws = generator("moved")
    values = [torch.ones(300) + 0.3 * torch.randn(300, generator=draws) for _ in range(2)]
    inputs, _, parts = stacked_input(*rounds_of(values, [100.0, 200.0]))
    assert parts == pytest.approx([0.2, 0.8], abs=0.03)
    mean = parts[0] * values[0] + parts[1] * values[1]
    assert float((inputs - mean).norm() / mean.norm()) < 0.01
    assert float((inputs - values[0]).norm() / mean.norm()) > 0.1


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "share"), [("mlp", 0.03), ("cnn64", 0.01)])
def test_five_rounds_say_more_than_one(faces: ImageDataset, kind: str, share: float) -> None:
    observation, truth = watched(faces, kind, rounds=5, sigma=share * norm_of(faces, kind))
    model = build_model(observation.model)
    alone = QUICK(observation.rounds[0], model, generator("attack"))
    together = QUICK(observation, model, generator("attack"))
    assert (together.outcome, together.rounds) == ("analytic", 5)
    assert "5 rounds read together" in together.notes
    found = [quality(answer.images, truth) for answer in (alone, together)]
    assert found[1] > max(found[0], of_mean(observation, truth)) + 1.0


def test_without_noise_the_first_round_is_taken(faces: ImageDataset) -> None:
    observation, _ = watched(faces, rounds=2, sigma=None)
    model = build_model(observation.model)
    found = QUICK(observation, model, generator("attack"))
    alone = QUICK(observation.rounds[0], model, generator("attack"))
    assert found.rounds == 1
    assert torch.equal(found.images, alone.images)


def test_matching_adds_the_losses_of_all_rounds(faces: ImageDataset) -> None:
    observation, truth = watched(faces, "cnn64", rounds=3, sigma=0.001)
    model, attack = build_model(observation.model), Matching(objective=L2(), labels="auto")
    images = truth.images[None].requires_grad_(True)
    whole = problem_of(attack, observation, model, generator("a")).losses(images, None, [0])
    single = [problem_of(attack, each, model, generator("a")) for each in observation.rounds]
    labels = single[0].labels
    parts = [replace(each, labels=labels).losses(images, None, [0]) for each in single]
    assert float(whole.detach()) == pytest.approx(sum(float(part.detach()) for part in parts), rel=1e-5)


def test_matching_says_how_many_rounds_it_used(faces: ImageDataset) -> None:
    observation, _ = watched(faces, rounds=3, sigma=0.001)
    assert (
        Matching(iterations=2)(observation, build_model(observation.model), generator("attack")).rounds == 3
    )


def test_evidence_counts_every_round(faces: ImageDataset) -> None:
    observation, truth = watched(faces, rounds=4, sigma=0.5)
    model = build_model(observation.model)
    whole = misfit(observation, model, truth.images, truth.labels)
    each = [misfit(one, model, truth.images, truth.labels) for one in observation.rounds]
    assert whole == pytest.approx(sum(each), rel=1e-6)
    # The truth misses every number by its noise, of which there is one in each round.
    numbers = sum(value.numel() for value in observation.tensors.values())
    assert whole == pytest.approx(4 * numbers, rel=0.02)


def test_the_control_holds_nothing_of_any_round(faces: ImageDataset) -> None:
    observation, _ = watched(faces, rounds=3, sigma=0.01)
    noise = norm_matched_noise(observation, generator("control"))
    for real, drawn in zip(observation.rounds, noise.rounds, strict=True):
        for name, value in real.tensors.items():
            cosine = torch.cosine_similarity(value.flatten(), drawn.tensors[name].flatten(), dim=0)
            assert abs(float(cosine)) < 0.1 or value.numel() < 1000
            assert float(drawn.tensors[name].norm()) == pytest.approx(float(value.norm()), rel=1e-4)


def test_rounds_of_other_images_are_refused(faces: ImageDataset) -> None:
    observation, _ = watched(faces, rounds=2, sigma=0.01)
    other = replace(observation.later[0], examples=2, batch_size=2)
    with pytest.raises(InputError, match=r"Observation\.later = 1: must be rounds of the same images"):
        check_observation(replace(observation, later=(other,)))
    damaged = replace(observation.later[0], tensors={})
    with pytest.raises(InputError, match="lacks tensor"):
        check_observation(replace(observation, later=(damaged,)))
