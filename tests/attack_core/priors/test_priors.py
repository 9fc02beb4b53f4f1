"""Priors: closed forms, candidates kept apart, gradients that stay finite, and what they do to an attack."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attack_core.gradients.batchnorm import statistics_distance
from attack_core.matching.loop.problem import problem_of
from attack_core.matching.matching import Matching
from attack_core.priors.penalties import cosine_matrix, haar, total_variation
from attack_core.priors.priors import (
    BatchNormStatistics,
    GroupConsistency,
    L2Norm,
    PatchSparsity,
    Prior,
    Scene,
    TotalVariation,
    Wavelet,
)
from fl_core.base.errors import InputError
from fl_core.base.rng import generator
from fl_core.base.types import ModelState
from fl_core.data.dataset import ImageDataset
from fl_core.models.build import build_model, initial_state
from fl_core.models.config import ModelConfig
from tests.support.matched import attacked, observed

RESNET = ModelConfig(kind="resnet18", image_size=16)
PRIORS: tuple[Prior, ...] = (
    TotalVariation(weight=0.5),
    TotalVariation(weight=0.5, inner=2.0, outer=0.5),
    TotalVariation(weight=0.5, inner=1.5, outer=1.2, double_opponents=True),
    L2Norm(weight=0.5),
    Wavelet(weight=0.5),
    PatchSparsity(weight=0.5),
    BatchNormStatistics(weight=0.5),
    GroupConsistency(weight=0.5),
    GroupConsistency(weight=0.5, centre="median"),
)


def identify(prior: Prior) -> str:
    return repr(prior)


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=generator("noise"))


def scene(config: ModelConfig = RESNET, restarts: Tensor | None = None) -> Scene:
    state = initial_state(config, generator("weights"))
    shifted = {
        name: value + 0.3 if value.is_floating_point() else value for name, value in state.buffers.items()
    }
    return Scene(build_model(config), ModelState(parameters=state.parameters, buffers=shifted), restarts)


@pytest.mark.parametrize("prior", PRIORS, ids=identify)
@pytest.mark.parametrize("batch_norm", ["eval", "train"])
def test_a_penalty_is_linear_in_its_weight_and_each_candidates_own(prior: Prior, batch_norm: Any) -> None:
    images = noise(3, 2, 3, 16, 16)
    around = scene(dataclasses.replace(RESNET, batch_norm=batch_norm), images)
    before = {name: value.clone() for name, value in around.state.buffers.items()}
    together = prior.penalty(images, around)
    assert together.shape == (3,)
    assert bool((together > 0).all())
    for i in range(3):
        torch.testing.assert_close(
            prior.penalty(images[i : i + 1], around)[0], together[i], rtol=1e-4, atol=0
        )
    doubled = dataclasses.replace(prior, weight=1.0).penalty(images, around)
    torch.testing.assert_close(doubled, 2.0 * together)
    assert all(torch.equal(before[name], value) for name, value in around.state.buffers.items())


@pytest.mark.parametrize("prior", PRIORS, ids=identify)
def test_the_slope_is_finite_even_at_flat_and_equal_images(prior: Prior) -> None:
    flat = torch.zeros((2, 1, 3, 16, 16), requires_grad=True)
    (slope,) = torch.autograd.grad(prior.penalty(flat, scene(restarts=flat.detach())).sum(), flat)
    assert bool(torch.isfinite(slope).all())


def test_total_variation_of_a_ramp() -> None:
    ramp = (0.5 * torch.arange(8.0)).expand(1, 1, 3, 8, 8).clone()
    plain = TotalVariation(weight=1.0).penalty(ramp, scene())
    assert float(plain) == pytest.approx(3 * 8 * 7 * 0.5)
    torch.testing.assert_close(plain, total_variation(ramp))
    isotropic = TotalVariation(weight=1.0, inner=2.0, outer=0.5).penalty(ramp, scene())
    assert float(isotropic) == pytest.approx(3 * 8 * 7 * 0.5, rel=1e-2)
    steep = TotalVariation(weight=1.0, inner=3.0).penalty(ramp, scene())
    assert float(steep) == pytest.approx(3 * 8 * 7 * 0.125)
    grey = TotalVariation(weight=1.0, double_opponents=True)
    assert float(grey.penalty(ramp, scene())) == pytest.approx(float(plain)), "equal colours oppose nothing"
    ramp[:, :, 0] = 0.0
    assert float(grey.penalty(ramp, scene())) == pytest.approx(4 * 8 * 7 * 0.5)


def test_haar_is_orthonormal_and_details_of_a_flat_image_are_zero() -> None:
    images = noise(2, 1, 3, 16, 16)
    coarse, details = haar(images)
    energy = coarse.square().sum() + sum(detail.square().sum() for detail in details)
    torch.testing.assert_close(energy, images.square().sum())
    assert float(Wavelet(weight=1.0).penalty(torch.full_like(images, 0.7), scene()).abs().max()) < 1e-5
    spike = torch.zeros((1, 1, 3, 16, 16))
    spike[0, 0, 0, 3, 5] = 1.0
    # A unit pixel leaves three details of 1/2 at the first level, of 1/4 at the second, of 1/8 at the third.
    for levels, expected in ((1, 1.5), (2, 2.25), (3, 2.625), (9, 2.8125)):
        assert float(Wavelet(weight=1.0, levels=levels).penalty(spike, scene())) == pytest.approx(expected)


def test_patches_are_sparse_in_cosines() -> None:
    cosines = cosine_matrix(8)
    torch.testing.assert_close(cosines @ cosines.mT, torch.eye(8), atol=1e-6, rtol=0)
    wave = torch.outer(cosines[2], cosines[3]).expand(1, 1, 3, 8, 8)
    once = PatchSparsity(weight=1.0, stride=8)
    assert float(once.penalty(3.0 * wave, scene())) == pytest.approx(9.0, rel=1e-5)
    assert float(once.penalty(torch.full((1, 1, 3, 8, 8), 0.7), scene())) == pytest.approx(0.0, abs=1e-4)
    images = noise(1, 1, 3, 64, 64)
    overlapping = PatchSparsity(weight=1.0, stride=4).penalty(images, scene())
    assert float(overlapping) == pytest.approx(float(once.penalty(images, scene())), rel=0.15)


def test_norm_and_group_by_hand() -> None:
    images = torch.zeros((3, 2, 3, 8, 8))
    images[1], images[2] = 1.0, 5.0
    size = math.sqrt(3 * 8 * 8)
    assert L2Norm(weight=1.0).penalty(images, scene()).tolist() == pytest.approx([0.0, 2 * size, 10 * size])
    mean = GroupConsistency(weight=1.0).penalty(images, scene(restarts=images))
    assert mean.tolist() == pytest.approx([4 * size, 2 * size, 6 * size])
    median = GroupConsistency(weight=1.0, centre="median").penalty(images, scene(restarts=images))
    assert median.tolist() == pytest.approx([2 * size, 0.0, 8 * size])


def test_batch_norm_distance_by_hand() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3)).eval()
    images = noise(2, 4, 3, 8, 8) * 2.0 + 1.0
    mean, variance = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1.0, 2.0, 3.0])
    state = ModelState(
        parameters={"0.weight": torch.ones(3), "0.bias": torch.zeros(3)},
        buffers={"0.running_mean": mean, "0.running_var": variance, "0.num_batches_tracked": torch.tensor(0)},
    )
    for training in (False, True):
        found = statistics_distance(model.train(training), state, images)
        for candidate, value in zip(images, found, strict=True):
            pixels = candidate.transpose(0, 1).flatten(1)
            expected = (pixels.mean(1) - mean).norm() + (pixels.var(1, unbiased=False) - variance).norm()
            torch.testing.assert_close(value, expected)
    assert torch.equal(state.buffers["0.running_mean"], torch.tensor([0.1, 0.2, 0.3]))


def test_priors_add_up_and_tv_weight_is_the_short_form(faces: ImageDataset) -> None:
    observation, _ = observed(faces)
    model, images = build_model(observation.model), noise(2, 1, 3, 16, 16)

    def penalty(**options: Any) -> Tensor:
        problem = problem_of(Matching(restarts=2, **options), observation, model, generator(0))
        return problem.penalty(images, torch.tensor([0, 1]), images)

    short = penalty(tv_weight=(0.1, 0.2))
    torch.testing.assert_close(short, torch.tensor([0.1, 0.2]) * total_variation(images))
    others = (Wavelet(weight=0.3), L2Norm(weight=0.4), GroupConsistency(weight=0.1))
    each = [penalty(tv_weight=0.0, priors=(prior,)) for prior in others]
    torch.testing.assert_close(penalty(tv_weight=(0.1, 0.2), priors=others), short + sum(each))
    as_prior = penalty(tv_weight=0.0, priors=(TotalVariation(weight=0.1),))
    torch.testing.assert_close(as_prior[0], short[0])


def test_a_group_draws_its_restarts_together(faces: ImageDataset) -> None:
    observation, _ = observed(faces)
    settings: dict[str, Any] = {
        "lr": 0.05,
        "restarts": 3,
        "iterations": 25,
        "init_std": 1.0,
        "schedule": "none",
    }

    def spread(**options: Any) -> float:
        found = attacked(observation, **settings, **options).candidates
        return float((found - found.mean(0)).square().mean())

    assert spread(priors=(GroupConsistency(weight=0.1),)) < 0.9 * spread()


def test_all_priors_fall_with_the_cosine_schedule(faces: ImageDataset) -> None:
    observation, _ = observed(faces)
    smooth = (TotalVariation(weight=1.0),)

    def roughness(**options: Any) -> float:
        found = attacked(observation, priors=smooth, clamp=1.0, **options)
        return float(total_variation(found.candidates)[0])

    assert roughness(anneal_tv=True) > 2.0 * roughness(anneal_tv=False)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TotalVariation(weight=-1.0), r"TotalVariation.weight = -1.0: must be at least 0"),
        (lambda: TotalVariation(inner=0.5), "inner = 0.5: must be at least 1"),
        (lambda: TotalVariation(outer=0.0), "outer = 0.0: must be more than 0"),
        (lambda: L2Norm(weight=-1.0), "L2Norm.weight"),
        (lambda: Wavelet(levels=0), "levels = 0: must be at least 1"),
        (lambda: PatchSparsity(size=16), "size = 16: must be from 2 to 8"),
        (lambda: PatchSparsity(stride=9), "stride = 9: must be from 1 to size = 8"),
        (lambda: BatchNormStatistics(weight=-1.0), "BatchNormStatistics.weight"),
        (lambda: GroupConsistency(weight=-1.0), "GroupConsistency.weight"),
        (
            lambda: Matching(priors=(GroupConsistency(),)),
            "restarts = 1: must be at least 2 with the prior 'group'",
        ),
        (
            lambda: Matching(priors=(GroupConsistency(),), restarts=2, optimizer="lbfgs"),
            "optimizer = 'lbfgs': must be a first-order one with the prior 'group'",
        ),
        (
            lambda: Matching(sign="hard", optimizer="lbfgs"),
            "sign = 'hard': must be 'none' with the optimizer",
        ),
        (
            lambda: Matching(parametrisation="deep_prior", init="fourier"),
            "init = 'fourier': must be 'normal', which is the default: a deep prior starts at random weights",
        ),
    ],
)
def test_bad_settings_are_refused_by_name(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_a_model_without_batch_norm_has_no_statistics_to_match(faces: ImageDataset) -> None:
    observation, _ = observed(faces)
    with pytest.raises(InputError, match="needs a model with BatchNorm layers"):
        attacked(observation, priors=(BatchNormStatistics(),))
