"""What penalties of images are computed by: variation, norms, and the coefficients of transforms.

Axes: C candidates, B images each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.linalg import vector_norm
from torch.nn import functional


@dataclass(frozen=True, kw_only=True)
class PriorLimits:
    """What keeps priors differentiable."""

    smooth: float = 1e-8
    """What is added to squared differences before their root, in squared normalised pixels.

    Roots of 0, where neighbours are equal, have an infinite slope. Not measured: it is far below any visible step.
    """


PRIOR_LIMITS = PriorLimits()
"""The limits in force."""


def with_opponents(images: Tensor) -> Tensor:
    """Images (C, B, 3, H, W) with the colour differences R-G, G-B and B-R as three more channels."""
    opponents = images - images.roll(-1, dims=2)
    return torch.cat([images, opponents], dim=2)


def variation(images: Tensor, *, inner: float, outer: float) -> Tensor:
    """The sum over pixels of (|dx|^inner + |dy|^inner)^outer, d being differences of neighbours, (C,)."""
    vertical = functional.pad(images.diff(dim=-2).abs(), (0, 0, 0, 1))
    horizontal = functional.pad(images.diff(dim=-1).abs(), (0, 1))
    steps = vertical.pow(inner) + horizontal.pow(inner)
    # An infinite slope at equal neighbours comes from the outer root alone.
    rooted = steps if outer == 1 else (steps + PRIOR_LIMITS.smooth).pow(outer)
    total: Tensor = rooted.flatten(1).sum(1)
    return total


def total_variation(images: Tensor) -> Tensor:
    """Anisotropic total variation: the sum of absolute differences of neighbours; (C, B, 3, H, W) to (C,)."""
    vertical = (images[..., 1:, :] - images[..., :-1, :]).abs().flatten(1).sum(1)
    horizontal = (images[..., :, 1:] - images[..., :, :-1]).abs().flatten(1).sum(1)
    return vertical + horizontal


def norms(images: Tensor) -> Tensor:
    """The sum over images of their L2 norm; (C, B, 3, S, S) to (C,)."""
    total: Tensor = vector_norm(images.flatten(2), dim=2).sum(1)
    return total


def haar_details(images: Tensor, levels: int) -> Tensor:
    """The L1 norm (C,) of the details of so many `levels` of `haar`, fewer where the size of images turns odd."""
    total = torch.zeros_like(images[:, 0, 0, 0, 0])
    for _ in range(levels):
        if images.shape[-1] % 2 or images.shape[-2] % 2:
            break
        images, details = haar(images)
        total = total + sum(detail.abs().flatten(1).sum(1) for detail in details)
    return total


def haar(images: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """One level of the orthonormal Haar transform of (..., S, S), S even.

    The coarse image and the three details, each (..., S/2, S/2).
    """
    rows = images[..., ::2, :], images[..., 1::2, :]
    low, high = (rows[0] + rows[1]) / 2.0, (rows[0] - rows[1]) / 2.0
    coarse = low[..., ::2] + low[..., 1::2]
    vertical, horizontal = high[..., ::2] + high[..., 1::2], low[..., ::2] - low[..., 1::2]
    return coarse, (vertical, horizontal, high[..., ::2] - high[..., 1::2])


def patch_cosines(images: Tensor, size: int, stride: int) -> Tensor:
    """The L1 norm (C,) of the cosine coefficients of patches of `size` pixels every `stride`, without their means."""
    cosines = cosine_matrix(size)
    filters = torch.einsum("ij,kl->ikjl", cosines, cosines).flatten(0, 1)[1:, None].to(images)
    planes = images.flatten(0, 2)[:, None]
    coefficients = functional.conv2d(planes, filters, stride=stride)
    each: Tensor = coefficients.abs().unflatten(0, (len(images), -1)).flatten(1).sum(1)
    return each


def cosine_matrix(size: int) -> Tensor:
    """The orthonormal cosine transform (DCT-II) as a matrix (size, size), float32: row k is frequency k."""
    step = torch.arange(size, dtype=torch.float32)
    cosines = torch.cos(math.pi / size * step[:, None] * (step[None, :] + 0.5)) * math.sqrt(2.0 / size)
    cosines[0] /= math.sqrt(2.0)
    return cosines
