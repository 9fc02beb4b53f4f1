"""A whole gradient with known errors, fitted behind smooth networks: when, to what error, and that it pays."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from attack_core.attacks.analytic import Analytic
from attack_core.gradients.targets import gradient_estimate
from attack_core.inversion.continuation import Continuation
from attack_core.inversion.gradient_fit import GradientFit, is_smooth
from fl_core.base.rng import generator
from fl_core.base.types import ModelState, Truth
from fl_core.data.dataset import ImageDataset
from fl_core.models.build import build_model
from fl_core.models.config import ModelConfig
from fl_core.threat.facts import Noise
from fl_core.threat.observation import Observation
from tests.support.defended import CNN, seen
from tests.support.matched import score
from tests.support.smooth import gelu_network

QUICK = Analytic(inversion=Continuation(evaluations=60), refinement=Continuation(evaluations=120))


@pytest.fixture(scope="module")
def gelu(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    return gelu_network(tmp_path_factory.mktemp("own"))


def noisy(faces: ImageDataset, model: ModelConfig, share: float) -> tuple[Observation, Truth]:
    """One victim's gradient with known noise of this `share` of its norm."""
    observation, truth = seen(faces, model=model)
    values = torch.cat([tensor.flatten() for tensor in observation.tensors.values()])
    sigma = share * float(values.norm()) / len(values) ** 0.5
    draws = generator("noise")
    tensors = {
        name: tensor + sigma * torch.randn(tensor.shape, generator=draws)
        for name, tensor in observation.tensors.items()
    }
    fact = Noise(distribution="gaussian", sigma=sigma)
    return replace(observation, tensors=tensors, facts=(fact,)), truth


def fit_of(observation: Observation, label: int) -> GradientFit | None:
    model, gradients = build_model(observation.model), gradient_estimate(observation)
    return GradientFit.of(observation, model, gradients, torch.tensor([label]), generator("fit"))


@pytest.mark.parametrize(
    ("layer", "smooth"),
    [
        (nn.GELU(), True),
        (nn.Sigmoid(), True),
        (nn.Softplus(), True),
        (nn.AvgPool2d(2, 1), True),
        (nn.ReLU(), False),
        (nn.ReLU6(), False),
        (nn.LeakyReLU(), False),
        (nn.Hardswish(), False),
        (nn.MaxPool2d(2, 1), False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_kinks_are_seen(layer: nn.Module, smooth: bool) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), layer, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3))
    state = ModelState(parameters=dict(model.named_parameters()), buffers={})
    assert is_smooth(model, state, (1, 6, 6)) is smooth


def test_the_truth_misses_what_is_fitted_by_the_error(faces: ImageDataset, gelu: ModelConfig) -> None:
    observation, truth = noisy(faces, gelu, 0.3)
    fit = fit_of(observation, int(truth.labels[0]))
    assert fit is not None
    numbers = sum(tensor.numel() for tensor in observation.tensors.values())
    missed = float(fit.mismatch(truth.images.requires_grad_(True)).detach())
    # Chi-squared over its mean, of nine tenths of the numbers: within four deviations.
    assert missed / fit.error == pytest.approx(1.0, abs=4 * (2 / (0.9 * numbers)) ** 0.5)
    left = fit.left(truth.images.detach())
    told = left[left != 0]
    assert len(told) == pytest.approx(0.1 * numbers, rel=0.15)
    assert float(told.square().mean()) == pytest.approx(1.0, abs=4 * (2 / len(told)) ** 0.5)


def test_the_truth_is_better_than_the_mean_image(faces: ImageDataset, gelu: ModelConfig) -> None:
    observation, truth = noisy(faces, gelu, 0.3)
    fit, mean = fit_of(observation, int(truth.labels[0])), observation.public_mean
    assert fit is not None
    assert mean is not None
    assert fit.is_better(truth.images, mean[None])
    assert not fit.is_better(mean[None], truth.images)


@pytest.mark.parametrize("told", [True, False], ids=["told", "not told"])
def test_kinks_and_unknown_errors_are_left_alone(faces: ImageDataset, gelu: ModelConfig, told: bool) -> None:
    observation, _ = noisy(faces, CNN if told else gelu, 0.3)
    assert fit_of(observation if told else replace(observation, facts=()), 0) is None


def test_noise_costs_less_than_the_features_say(faces: ImageDataset, gelu: ModelConfig) -> None:
    observation, truth = noisy(faces, gelu, 0.1)
    model = build_model(gelu)
    found = QUICK(observation, model, generator("attack"))
    features = replace(QUICK, refine="never")(observation, model, generator("attack"))
    assert found.method == "analytic: whole gradient"
    assert score(found.images, truth.images) > score(features.images, truth.images) + 3.0


def test_what_noise_hides_stays_hidden(faces: ImageDataset, gelu: ModelConfig) -> None:
    observation, _ = noisy(faces, gelu, 100.0)
    found = QUICK(observation, build_model(gelu), generator("attack"))
    assert observation.public_mean is not None
    assert torch.equal(found.images, observation.public_mean[None])
