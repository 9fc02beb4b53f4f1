"""Coordinates in which a network passes all structure about equally: orthonormal, transposed, and of what it passes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attack_core.inversion.descent.cosine import CosinePreconditioner
from attack_core.priors.colour_tv import colour_axes
from fl_core.base.rng import generator

SIZE = 8


def random_images(count: int = 1, *, seed: int = 0) -> Tensor:
    return torch.rand((count, 3, SIZE, SIZE), generator=generator("images", seed)) * 2 - 1


def low_pass(images: Tensor) -> Tensor:
    """Features that hold the coarse structure of each channel and nothing else."""
    plain = CosinePreconditioner.measured(lambda x: x.flatten(1), torch.zeros(1, 3, SIZE, SIZE), generator(0))
    return plain.coefficients(images)[:, :, :2, :2].flatten(1)


def test_coordinates_go_back_and_forth() -> None:
    images = random_images(2)
    coordinates = CosinePreconditioner.measured(low_pass, images[:1], generator("probes"))
    there = coordinates.coefficients(images)
    torch.testing.assert_close(coordinates.images(there * coordinates.scale), images, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(there.square().sum((1, 2, 3)), images.square().sum((1, 2, 3)))
    flat = coordinates.coefficients(torch.ones(1, 3, SIZE, SIZE))
    assert float(flat[0, 0, 0, 0]) == pytest.approx(8 * 3**0.5, rel=1e-5)
    flat[0, 0, 0, 0] = 0.0
    assert float(flat.abs().max()) < 1e-5


def test_coordinates_measure_what_the_features_pass() -> None:
    """Bands without any gain get the floor; the others the root of theirs, up to the probes' randomness."""
    image = random_images(1)
    scale = CosinePreconditioner.measured(low_pass, image, generator("probes")).scale
    assert float(scale.max()) == pytest.approx(1.0)
    assert bool((scale[:, :2, :2] > 0.5).all())
    torch.testing.assert_close(scale[:, 4:], torch.full((3, 4, 8), 1e-2))

    def bright(images: Tensor) -> Tensor:
        turned = torch.einsum("kc,nchw->nkhw", colour_axes(images), images)
        return (turned * torch.tensor([1.0, 0.25, 0.25])[:, None, None]).flatten(1)

    scale = CosinePreconditioner.measured(bright, image, generator("probes")).scale
    # The last band has most coefficients, so its mean over few probes is steady.
    ratio = float(scale[1, -1, -1] / scale[0, -1, -1])
    assert ratio == pytest.approx(0.5, rel=0.1)
    again = CosinePreconditioner.measured(bright, image, generator("probes")).scale
    assert torch.equal(scale, again)


def test_coordinates_and_gradients_are_each_others_transpose() -> None:
    """<g, images(z)> = <gradient(g), z>, and `scaled` is the inverse of `images`."""
    weights = torch.rand((7, 3 * SIZE * SIZE), generator=generator("weights"))
    axes = CosinePreconditioner.measured(
        lambda x: x.flatten(1) @ weights.mT, random_images(), generator("probes")
    )
    z, g = random_images(seed=1), random_images(seed=2)
    assert float((g * axes.images(z)).sum()) == pytest.approx(float((axes.gradient(g) * z).sum()), rel=1e-3)
    torch.testing.assert_close(axes.scaled(axes.images(z)), z, atol=1e-4, rtol=0)
