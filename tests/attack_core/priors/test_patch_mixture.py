"""The trained prior: its density against SciPy, its gradient, its units, and what its training finds."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from torch import Tensor

from attack_core.attacks.analytic import Analytic
from attack_core.attacks.auto import Auto
from attack_core.attacks.convolution_inversion import ConvolutionInversion
from attack_core.inversion.continuation import Continuation
from attack_core.matching.matching import Matching
from attack_core.metrics.controls import norm_matched_noise
from attack_core.priors import patch_mixture
from attack_core.priors.mixture_training import random_patches, train_patches
from attack_core.priors.patch_mixture import PatchMixture
from attack_core.priors.priors import Scene, Trained
from attack_core.priors.training import PatchTraining
from fl_core.base.errors import InputError
from fl_core.base.rng import generator
from fl_core.data.dataset import ImageDataset
from fl_core.models.build import build_model
from fl_core.threat.facts import Noise
from tests.support.matched import observed

SMALL = PatchTraining(patch=4, components=3, directions=8, patches=600, passes=4)


def mixture(
    directions: int, size: int = 2, components: int = 3, dtype: torch.dtype = torch.float64
) -> PatchMixture:
    """A mixture that nothing taught."""
    draw, numbers = generator("mixture"), 3 * size * size

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=dtype)

    contrast = normal(numbers, directions).view(3, size * size, directions)
    basis = torch.linalg.qr((contrast - contrast.mean(1, keepdim=True)).flatten(0, 1)).Q.mT
    factors = 0.3 * normal(components, directions, directions)
    return PatchMixture(
        basis=basis,
        log_weights=normal(components).log_softmax(0),
        covariances=factors @ factors.mT + 0.2 * torch.eye(directions, dtype=dtype),
        rest=normal(components).exp(),
        size=size,
    )


def by_scipy(mixture: PatchMixture, patches: Tensor) -> np.ndarray[Any, Any]:
    """The log density from full covariances, in orthonormal coordinates of all contrasts."""
    size = mixture.size**2
    flat = np.kron(np.eye(3), np.full((size, 1), size**-0.5))
    contrasts = np.linalg.svd(flat, full_matrices=True)[0][:, 3:]
    basis = mixture.basis.numpy() @ contrasts
    outside = np.eye(basis.shape[1]) - basis.T @ basis
    each = [
        float(weight)
        + multivariate_normal(cov=basis.T @ covariance.numpy() @ basis + float(rest) * outside).logpdf(
            patches.numpy() @ contrasts
        )
        for weight, covariance, rest in zip(
            mixture.log_weights, mixture.covariances, mixture.rest, strict=True
        )
    ]
    return np.asarray(logsumexp(each, axis=0))


@pytest.mark.parametrize("directions", [1, 5, 9])
def test_the_density_is_that_of_scipy_and_a_level_does_not_matter(directions: int) -> None:
    found = mixture(directions)
    patches = torch.randn((7, 12), generator=generator("patches"), dtype=torch.float64)
    assert found.log_density(patches).numpy() == pytest.approx(by_scipy(found, patches), rel=1e-9)
    wrong = dataclasses.replace(found, rest=1.1 * found.rest, covariances=1.1 * found.covariances)
    assert wrong.log_density(patches).numpy() != pytest.approx(by_scipy(found, patches), rel=1e-4)
    brighter = (patches.view(7, 3, 4) + torch.tensor([[0.5], [-0.1], [2.0]])).flatten(1)
    assert torch.allclose(found.log_density(brighter), found.log_density(patches))


def test_the_penalty_is_that_of_all_patches_and_its_slope_is_that_of_differences() -> None:
    found = mixture(5)
    images = torch.randn((2, 3, 5, 4), generator=generator("images"), dtype=torch.float64)
    # A side of 5 has a last patch that reaches over the edge, where the last row is repeated.
    padded = torch.cat([images, images[:, :, -1:]], dim=2)
    patches = torch.stack(
        [padded[:, :, i : i + 2, j : j + 2].flatten(1) for i in (0, 2, 4) for j in (0, 2)], dim=1
    )
    expected = -3000.0 / (3 * 5 * 4) * found.log_density(patches.flatten(0, 1)).view(2, 6).sum(1)
    assert torch.allclose(found.penalty(images), expected)
    assert torch.autograd.gradcheck(found.penalty, images.requires_grad_(True))


def test_images_that_come_one_after_the_other_have_the_same_penalty(monkeypatch: pytest.MonkeyPatch) -> None:
    found = mixture(5, dtype=torch.float32)
    images = torch.randn((5, 3, 8, 8), generator=generator("images"))
    together = found.penalty(images)
    limits = dataclasses.replace(patch_mixture.PATCH_MIXTURE_LIMITS, numbers=1)
    monkeypatch.setattr(patch_mixture, "PATCH_MIXTURE_LIMITS", limits)
    assert torch.allclose(found.penalty(images), together, rtol=1e-6)


def test_training_finds_the_mixture_that_patches_come_from() -> None:
    """Two kinds of noise: a quarter of the images with much contrast, the others with little."""
    draw = generator("two kinds")
    strong = torch.rand((400, 1, 1, 1), generator=draw) < 0.25
    levels = torch.rand((400, 1, 1, 1), generator=draw)
    images = levels + torch.where(strong, 0.2, 0.05) * torch.randn((400, 1, 8, 8), generator=draw)
    settings = PatchTraining(patch=3, components=2, directions=4, patches=8000, passes=40)
    found = train_patches(images, settings, generator("training"))
    order = found.log_weights.argsort()
    assert found.log_weights.exp()[order].tolist() == pytest.approx([0.25, 0.75], abs=0.04)
    variances = found.covariances.diagonal(dim1=1, dim2=2).mean(1)[order]
    assert variances.sqrt().tolist() == pytest.approx([0.2, 0.05], rel=0.1)
    assert found.rest[order].sqrt().tolist() == pytest.approx([0.2, 0.05], rel=0.1)


def test_every_pass_makes_the_patches_more_likely() -> None:
    images = faces_like("faces", 30)
    patches = random_patches(images, 4, 600, generator("training"))
    each = [
        float(
            train_patches(images, dataclasses.replace(SMALL, passes=passes), generator("training"))
            .log_density(patches)
            .mean()
        )
        for passes in (1, 2, 4, 8)
    ]
    assert each == sorted(each)
    assert each[-1] > each[0]


def test_the_same_images_and_seed_give_the_same_prior_and_others_another() -> None:
    images = faces_like("faces", 10)
    first, again = (train_patches(images, SMALL, generator("training", 1)) for _ in range(2))
    for name, value in first.tensors().items():
        assert torch.equal(value, again.tensors()[name])
    other = train_patches(images, SMALL, generator("training", 2))
    assert not torch.equal(first.covariances, other.covariances)


def test_the_penalty_of_an_image_does_not_grow_with_its_size() -> None:
    found = mixture(5, dtype=torch.float32)
    # Patches of 2 pixels every 2 pixels: four images side by side have the patches of each.
    four = torch.randn((4, 3, 8, 8), generator=generator("images"))
    together = four.permute(1, 2, 0, 3).reshape(1, 3, 8, 32)
    assert float(found.penalty(together)) == pytest.approx(float(found.penalty(four).mean()), rel=1e-5)


def test_half_of_the_patches_are_mirrored() -> None:
    images = torch.arange(4.0).repeat(1, 1, 4, 1)
    patches = random_patches(images, 2, 400, generator("patches")).view(-1, 2, 2)
    rising = (patches[:, 0, 1] > patches[:, 0, 0]).float().mean()
    assert 0.4 < float(rising) < 0.6


def test_a_patch_that_is_larger_than_the_images_is_refused() -> None:
    with pytest.raises(InputError, match=r"prior.patch = 6: images of 5 x 8 pixels are smaller"):
        train_patches(torch.zeros(1, 3, 5, 8), PatchTraining(), generator("training"))


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("patch", 1, "from 2 to 8"),
        ("components", 0, "from 1 to 1,000"),
        ("directions", 0, "from 1 to 1,000"),
        ("patches", 479, "from 10 for each component, 480, to 10,000,000"),
        ("passes", 0, "from 1 to 1,000"),
    ],
)
def test_settings_out_of_range_are_refused(setting: str, value: int, message: str) -> None:
    with pytest.raises(InputError, match=f"PatchTraining.{setting} = {value}: must be {message}"):
        PatchTraining(**{setting: value})


def test_matching_with_the_prior_needs_an_attacker_that_has_one(faces: ImageDataset) -> None:
    record, _ = observed(faces)
    model = build_model(record.model)
    attack = Matching(iterations=2, priors=(Trained(weight=1e-3),))
    with pytest.raises(InputError, match="'trained' needs an attacker that trains one"):
        attack(record, model, generator("attack"))
    prior = train_patches(public(faces), SMALL, generator("training"))
    plain = Matching(iterations=2)(record, model, generator("attack"))
    found = attack(dataclasses.replace(record, prior=prior), model, generator("attack"))
    assert not torch.equal(found.images, plain.images)


def test_the_penalty_of_matching_is_the_sum_over_a_candidates_images() -> None:
    found = mixture(5, dtype=torch.float32)
    images = torch.randn((2, 3, 3, 8, 8), generator=generator("images"))
    scene = Scene(model=None, state=None, trained=found)  # type: ignore[arg-type]  # not looked at
    expected = 0.5 * torch.stack([found.penalty(candidate).sum() for candidate in images])
    assert torch.allclose(Trained(weight=0.5).penalty(images, scene), expected)


def test_under_known_noise_the_analytic_attack_uses_it(faces: ImageDataset) -> None:
    record, _ = observed(faces)
    model, draw = build_model(record.model), generator("noise")
    noisy = {
        name: value + 0.02 * torch.randn(value.shape, generator=draw)
        for name, value in record.tensors.items()
    }
    record = dataclasses.replace(
        record,
        tensors=noisy,
        facts=(Noise(distribution="gaussian", sigma=0.02),),
        public_mean=public(faces).mean(0),
    )
    attack = Analytic(inversion=Continuation(evaluations=40))
    prior = train_patches(public(faces), SMALL, generator("training"))
    plain = attack(record, model, generator("attack"))
    found = attack(dataclasses.replace(record, prior=prior), model, generator("attack"))
    assert plain.outcome == found.outcome == "analytic"
    assert not torch.equal(found.images, plain.images)


def test_the_control_on_noise_keeps_the_prior(faces: ImageDataset) -> None:
    record, _ = observed(faces)
    prior = train_patches(public(faces), SMALL, generator("training"))
    control = norm_matched_noise(dataclasses.replace(record, prior=prior), generator("control"))
    assert control.prior is prior


def test_attacks_say_what_they_do_with_a_prior() -> None:
    trained = Matching(priors=(Trained(),))
    assert Matching().prior_use == ConvolutionInversion().prior_use == "unused"
    assert trained.prior_use == Analytic(fallback=trained).prior_use == "needed"
    assert Analytic().prior_use == Auto().prior_use == "optional"


def public(faces: ImageDataset) -> Tensor:
    """The public images (N, 3, S, S)."""
    return torch.stack([faces.image(index) for index in faces.split("test")])


def faces_like(name: str, count: int) -> Tensor:
    """Images (count, 3, 8, 8) with smooth structure."""
    coarse = torch.rand((count, 3, 3, 3), generator=generator(name)) * 2.0 - 1.0
    return torch.nn.functional.interpolate(coarse, size=8, mode="bilinear", align_corners=True)
