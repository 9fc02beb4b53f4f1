"""The analytic attack from the last convolution's input: better than from the features, and only where it follows."""

from __future__ import annotations

import dataclasses

import torch

from attack_core.attacks.analytic import Analytic
from attack_core.inversion.continuation import Continuation
from fl_core.base.rng import generator
from fl_core.data.dataset import ImageDataset
from fl_core.models.build import build_model
from fl_core.threat.facts import Noise
from fl_core.threat.observation import Observation
from tests.support.analytic import observed
from tests.support.matched import score

DECODED = Analytic(inversion=Continuation(evaluations=60), certify=False)
FEATURES = dataclasses.replace(DECODED, decode=False)


def notes(attack: Analytic, observation: Observation) -> str:
    found = attack(observation, build_model(observation.model), generator("attack"))
    return " ".join(found.notes)


def test_the_input_of_the_last_convolution_says_more_than_the_features(faces: ImageDataset) -> None:
    observation, truth = observed(faces)
    model = build_model(observation.model)
    answers = [attack(observation, model, generator("attack")) for attack in (FEATURES, DECODED)]
    scores = [score(found.images, truth.images) for found in answers]
    assert scores[1] > scores[0] + 3.0
    assert "the input of convolution conv3, 2048 numbers" in " ".join(answers[1].notes)
    assert answers[1].certificates == ()


def test_known_noise_leaves_it_to_the_features(faces: ImageDataset) -> None:
    observation, _ = observed(faces)
    noisy = dataclasses.replace(observation, facts=(Noise(distribution="gaussian", sigma=1e-4),))
    assert "conv3" not in notes(DECODED, noisy)


def test_a_gradient_that_is_off_leaves_it_to_the_features(faces: ImageDataset) -> None:
    observation, _ = observed(faces)
    name = "conv3.weight"
    value = observation.tensors[name]
    off = value + 0.01 * value.square().mean().sqrt() * torch.randn(value.shape, generator=generator("noise"))
    other = dataclasses.replace(observation, tensors={**observation.tensors, name: off})
    assert "conv3" not in notes(DECODED, other)
