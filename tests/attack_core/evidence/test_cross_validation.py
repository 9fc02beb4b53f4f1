"""Noisy features: how far an image follows them is decided by the numbers that they were not read from."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from attack_core.attacks.analytic import Analytic
from attack_core.attacks.auto import Auto
from attack_core.evidence.cross_validation import chosen, evidence, residuals_elsewhere
from attack_core.gradients.comparison.matched import Matched
from attack_core.gradients.handles import DenseHandle, GhostHandle, GradientHandle
from attack_core.gradients.objectives import L2
from attack_core.gradients.targets import gradient_estimate
from attack_core.inversion.continuation import Continuation
from defenses.chain import AnyDefense
from defenses.compression.compression import Quantise
from defenses.mechanism.noise import ClipOnly, NoiseOnly
from fl_core.base.rng import generator
from fl_core.data.dataset import ImageDataset
from fl_core.models.build import build_model
from fl_core.models.config import ModelConfig
from tests.support.defended import attacked, of_mean, seen

ATTACK = Auto(analytic=Analytic(inversion=Continuation(evaluations=120)))
MLP = ModelConfig(kind="mlp")
FEATURES = ("fc1.weight", "fc1.bias")


@pytest.mark.parametrize(
    ("path", "point"),
    [
        ([(0.0, 0.0)], 0),
        ([(4.0, 0.0), (0.0, 0.0)], 0),  # 16 for it, give or take 8.
        ([(4.5, 0.0), (0.0, 0.0)], 1),
        ([(9.0, 9.0), (6.0, 1.0), (1.0, 1.0), (0.0, 1.0), (8.0, 8.0)], 2),
        # The same evidence of 35 for the second one: close to the third it counts, far from it it does not.
        ([(100.0, 0.0), (6.0, 0.0), (1.0, 0.0)], 2),
        ([(100.0, 0.0), (0.0, 6.0), (1.0, 0.0)], 2),
        ([(100.0, 0.0), (0.0, 6.0), (-1.0, -6.0)], 1),
    ],
)
def test_the_earliest_point_within_two_standard_errors_of_the_best(
    path: list[tuple[float, float]], point: int
) -> None:
    assert chosen([torch.tensor(left) for left in path]) == point


@pytest.mark.parametrize("scaled", [True, False])
def test_residuals_have_the_loss_for_square(scaled: bool) -> None:
    draws = generator("residuals", 0)
    factors = GhostHandle(torch.randn(3, 2, 4, generator=draws), torch.randn(3, 2, 5, generator=draws))
    handles: dict[str, GradientHandle] = {"a": factors, "b": DenseHandle(factors.error.sum(1))}
    targets = {"a": torch.randn(4, 5, generator=draws), "b": torch.randn(4, generator=draws)}
    sent = {"a": torch.rand(4, 5, generator=draws) > 0.5}
    terms = Matched.of(targets, {"a": 2.0, "b": 0.3}, sent=sent, scaled=scaled).terms(handles)
    torch.testing.assert_close(terms.residuals().square().sum(1), L2().loss(terms))


def test_evidence_is_of_the_rest_alone_and_highest_for_the_truth(faces: ImageDataset) -> None:
    told, truth = seen(faces, NoiseOnly(sigma=0.004))
    model, gradients, labels = build_model(told.model), gradient_estimate(told), truth.example_labels()
    assert told.public_mean is not None
    start = told.public_mean[None]

    def evidence_for(images: Tensor, observed: dict[str, Tensor] = gradients) -> float:
        residuals = residuals_elsewhere(told, model, observed, FEATURES, labels)
        return evidence(residuals(start), residuals(images))

    assert evidence_for(start) == 0.0
    for_truth, for_half = evidence_for(truth.images), evidence_for((start + truth.images) / 2)
    assert for_truth > for_half > 0
    turned = {name: -value if name in FEATURES else value for name, value in gradients.items()}
    assert evidence_for(truth.images, turned) == for_truth
    elsewhere = gradients | {"conv2.weight": -gradients["conv2.weight"]}
    assert evidence_for(truth.images, elsewhere) < for_truth


def test_the_truth_leaves_noise_of_unit_size(faces: ImageDataset) -> None:
    """So that evidence is in units of the error's variance, and its standard error is what the rule says."""
    told, truth = seen(faces, NoiseOnly(sigma=0.004))
    residuals = residuals_elsewhere(
        told, build_model(told.model), gradient_estimate(told), FEATURES, truth.example_labels()
    )
    left = residuals(truth.images)
    assert float(left.square().mean()) == pytest.approx(1.0, rel=5 * (2 / len(left)) ** 0.5)


def test_the_way_ends_soon_after_evidence_stops_growing() -> None:
    target, start = torch.full((1, 3, 8, 8), 0.5), torch.zeros(1, 3, 8, 8)
    seen_images: list[Tensor] = []

    def follow(grows: int) -> Tensor:
        seen_images.clear()

        def residuals(images: Tensor) -> Tensor:
            seen_images.append(images)
            stage = len(seen_images) - 1  # The first is the start.
            return torch.tensor([1000.0 - 10.0 * (stage if stage <= grows else grows - stage)])

        return Continuation(evaluations=8).follow(
            lambda images: (images - target).square().mean(), start, residuals, error=0.5
        )

    assert follow(3) is seen_images[3]
    assert len(seen_images) == 1 + 5
    assert follow(0) is start
    assert len(seen_images) > 1 + 10


@pytest.mark.parametrize(
    ("defense", "model", "least_gain"),
    [
        pytest.param((Quantise(bits=1),), ModelConfig(kind="cnn64"), 1.5, marks=pytest.mark.slow),
        ((Quantise(bits=1),), MLP, 5.0),
        ((ClipOnly(max_norm=1.0), NoiseOnly(sigma=0.02)), MLP, 2.5),
    ],
    ids=["one bit", "one bit of pixels", "pixels"],
)
def test_an_input_that_is_half_noise_still_shows_the_image(
    faces: ImageDataset, defense: tuple[AnyDefense, ...], model: ModelConfig, least_gain: float
) -> None:
    gains = []
    for victim in range(4):
        told, truth = seen(faces, *defense, model=model, victim=victim)
        gains.append(attacked(told, truth, ATTACK) - of_mean(told, truth))
    # One victim in four may be worse off for one bit; with AVX-512's rounding one is, by 0.3 dB.
    assert min(gains) > -0.5
    assert sum(gains) / len(gains) > least_gain


@pytest.mark.slow
def test_what_drowns_is_answered_with_the_mean_image(faces: ImageDataset) -> None:
    """Where the leading direction is noise's, and where it is just not and the rest of the signal is against it."""
    for sigma in (0.02, 0.1):
        told, truth = seen(faces, NoiseOnly(sigma=sigma))
        assert attacked(told, truth, ATTACK) == pytest.approx(of_mean(told, truth))
    told, truth = seen(faces, NoiseOnly(sigma=0.008))
    noise = {
        name: 0.008 * torch.randn(value.shape, generator=generator("other", 0))
        for name, value in told.tensors.items()
    }
    misled = replace(told, tensors={**noise, **{name: told.tensors[name] for name in FEATURES}})
    assert attacked(misled, truth, ATTACK) == pytest.approx(of_mean(told, truth))
