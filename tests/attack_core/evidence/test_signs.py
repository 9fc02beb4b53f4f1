"""One bit a number: the likelihood of signs, and the attacker that uses it."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from attack_core.attacks.auto import Auto
from attack_core.evidence.likelihood_ratio import is_supported, prior_answer, too_weak
from attack_core.gradients.comparison.matched import Matched
from attack_core.gradients.handles import DenseHandle
from attack_core.gradients.objectives import Signs
from attack_core.matching.presets import soft_matching
from defenses.compression.compression import SignOnly
from fl_core.base.rng import generator
from fl_core.data.dataset import ImageDataset
from fl_core.models.build import build_model
from tests.support.defended import attacked, of_mean, seen

ATTACK = Auto(fallback=dataclasses.replace(soft_matching(), iterations=40))


def surprise(gradient: torch.Tensor, target: torch.Tensor, *, scaled: bool = False) -> float:
    matched = Matched.of({"a": target}, {"a": 1.0}, scaled=scaled)
    return float(Signs().loss(matched.terms({"a": DenseHandle(gradient[None])})))


def test_the_loss_by_hand() -> None:
    """Numbers as large as the size that was sent, with the right signs, the wrong ones, and none."""
    target = torch.tensor([2.0, -2.0])
    right, wrong = (math.log2(1 + math.exp(sign * 2)) for sign in (-1, 1))
    assert surprise(target, target) == pytest.approx(right)
    assert surprise(-target, target) == pytest.approx(wrong)
    assert surprise(torch.zeros(2), target) == pytest.approx(1.0)
    assert surprise(torch.tensor([2.0, 2.0]), target) == pytest.approx((right + wrong) / 2)


def test_under_clipping_gradients_are_scaled_first() -> None:
    target = torch.tensor([2.0, -2.0])
    assert surprise(5.0 * target, target, scaled=True) == pytest.approx(surprise(target, target))


def test_it_is_least_at_the_gradient_behind_random_rounding() -> None:
    """The mean over many draws, along the line through the true gradient: right on average means right here."""
    draws = generator("bits", 0)
    truth = 0.3 * (2.0 * torch.rand(20_000, generator=draws) - 1.0)
    bits = torch.where(torch.rand(20_000, generator=draws) < (1.0 + truth) / 2.0, 1.0, -1.0)
    found = {factor: surprise(factor * truth, bits) for factor in (0.0, 0.5, 1.0, 1.5, 2.0)}
    assert min(found, key=lambda factor: found[factor]) == 1.0


@pytest.mark.slow
def test_who_knows_of_signs_gains_over_the_mean_image(faces: ImageDataset) -> None:
    """Paired over two victims; its answers are supported, and a picture of nothing is not."""
    gains, leads = [], []
    for victim in range(2):
        told, truth = seen(faces, SignOnly(), victim=victim)
        untold, _ = seen(faces, SignOnly(), victim=victim, told=False)
        found = attacked(told, truth, ATTACK)
        gains.append(found - of_mean(told, truth))
        leads.append(found - attacked(untold, truth, ATTACK))
        assert not too_weak(told)
        model, prior = build_model(told.model), prior_answer(told, truth.example_labels(), "")
        noise = torch.randn(prior.images.shape, generator=generator("noise", victim))
        assert not is_supported(dataclasses.replace(prior, images=noise), prior, told, model)
    assert min(gains) > -0.05
    assert sum(gains) / 2 > 2.0
    assert sum(leads) > 0
