"""Noisy features: how far an image follows them is decided by the numbers that they were not read from."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from attack_core.analytic import Analytic
from attack_core.auto import Auto
from attack_core.descent import Descent
from attack_core.held_out import chosen, evidence_elsewhere
from attack_core.targets import gradient_estimate
from defenses.chain import AnyDefense
from defenses.compression import Quantise
from defenses.noise import ClipOnly, NoiseOnly
from fl_core.celeba import FaceDataset
from fl_core.models import ModelConfig, build_model
from fl_core.rng import generator
from tests.defended import attacked, of_mean, seen

ATTACK = Auto(analytic=Analytic(inversion=Descent(evaluations=120)))
MLP = ModelConfig(kind="mlp")
FEATURES = ("fc1.weight", "fc1.bias")


@pytest.mark.parametrize(
    ("found", "point"),
    [
        ([0.0], 0),
        ([0.0, -3.0, 4.0], 0),  # Within a standard error of nothing.
        ([0.0, 5.0], 1),
        ([0.0, 79.0, 81.0, 99.0, 100.0, 60.0], 2),
        ([0.0, 10.0, 10_000.0], 2),
    ],
)
def test_the_earliest_point_within_a_standard_error_of_the_best(found: list[float], point: int) -> None:
    assert chosen(found) == point


def test_evidence_is_of_the_rest_alone_and_highest_for_the_truth(faces: FaceDataset) -> None:
    told, truth = seen(faces, NoiseOnly(sigma=0.004))
    model, gradients, labels = build_model(told.model), gradient_estimate(told), truth.example_labels()
    assert told.public_mean is not None
    start = told.public_mean[None]

    def evidence(observed: dict[str, Tensor], images: Tensor) -> float:
        return evidence_elsewhere(told, model, observed, FEATURES, labels, start)(images)

    assert evidence(gradients, start) == 0.0
    halfway = (start + truth.images) / 2
    for_truth, for_half = evidence(gradients, truth.images), evidence(gradients, halfway)
    assert for_truth > for_half > 0
    turned = {name: -value if name in FEATURES else value for name, value in gradients.items()}
    assert evidence(turned, truth.images) == for_truth
    elsewhere = gradients | {"conv2.weight": -gradients["conv2.weight"]}
    assert evidence(elsewhere, truth.images) < for_truth


def test_the_way_ends_soon_after_evidence_stops_growing() -> None:
    target, start = torch.full((1, 3, 8, 8), 0.5), torch.zeros(1, 3, 8, 8)
    seen_images: list[Tensor] = []

    def follow(grows: int) -> Tensor:
        seen_images.clear()

        def evidence(images: Tensor) -> float:
            seen_images.append(images)
            stage = len(seen_images)
            return 100.0 * (stage if stage <= grows else grows - stage)

        return Descent(evaluations=8).follow(
            lambda images: (images - target).square().mean(), start, evidence, error=0.5
        )

    assert follow(3) is seen_images[2]
    assert len(seen_images) == 5
    assert follow(0) is start
    assert len(seen_images) > 10


@pytest.mark.parametrize(
    ("defense", "model", "least_gain"),
    [
        ((Quantise(bits=1),), ModelConfig(kind="cnn64"), 1.5),
        ((Quantise(bits=1),), MLP, 5.0),
        ((ClipOnly(max_norm=1.0), NoiseOnly(sigma=0.02)), MLP, 3.0),
    ],
    ids=["one bit", "one bit of pixels", "pixels"],
)
def test_an_input_that_is_half_noise_still_shows_the_image(
    faces: FaceDataset, defense: tuple[AnyDefense, ...], model: ModelConfig, least_gain: float
) -> None:
    gains = []
    for victim in range(2):
        told, truth = seen(faces, *defense, model=model, victim=victim)
        gains.append(attacked(told, truth, ATTACK) - of_mean(told, truth))
    assert min(gains) > -0.05
    assert sum(gains) / 2 > least_gain


def test_what_drowns_is_answered_with_the_mean_image(faces: FaceDataset) -> None:
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
