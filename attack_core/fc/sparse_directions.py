"""Directions of a column space with many exact zeros: where a ReLU's errors are looked for.

The columns of U (O, B) span the errors of B images at O units. Of these errors about half the numbers are exact
zeros, so that they are far from Gaussian, and independent component analysis finds roughly where they are (Hyvarinen
1999, FastICA with symmetric orthogonalisation). From there each is fitted to the units that it leaves most nearly off,
ever more of them: least trimmed squares, which ends at exact zeros where the start was near enough. Each unit is a
sample of the analysis, so it needs far more units than images.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class DirectionLimits:
    """How directions are looked for.

    Chosen on one batch each of 16, 64 and 128 CIFAR-10 pictures of the train split and a layer of 2048 units.
    """

    turns: int = 120
    """Steps of the analysis; not measured against others."""
    slope: float = 2.0
    """Of the hyperbolic tangent that measures sparsity, at unit variance. 1 and 4 find no more of 128 directions."""
    sparse: float = 0.74
    """A direction is followed up where its mean absolute value is below this share of its root mean square.

    0.80 for Gaussian numbers, 0.56 for those of which half are 0.
    """
    shares: tuple[float, ...] = (0.25, 0.25, 0.35, 0.35, 0.42)
    """The share of units that a direction is fitted to, turn by turn, the last one again; about half are off."""
    most_fits: int = 14
    """How often a direction is fitted at most. Six were too few for four of 16; not measured against others."""
    zeros_an_image: int = 2
    """To how many units that are on for some image a direction is fitted at least, for each image that is left."""
    exact: float = 1e-5
    """A direction is exact where the units that it was fitted to are off to this share of its largest number."""
    above_noise: float = 3.0
    """The same as a multiple of the noise that `columns` have, where that is more.

    An image that was taken off leaves as much as it is wrong by: one of 104 dB left 3e-5 of the next two.
    """
    live: float = 1e-3
    """A unit whose row is shorter than this share of the longest row is on for no image.

    The fewer images are left, the more units there are of this kind: of three of 16 a sixth to a fifth.
    """
    noise: float = 30.0
    """By which factor a unit that is on exceeds what rounding leaves of those that are off (their median)."""


DIRECTION_LIMITS = DirectionLimits()
"""The limits in force."""


def sparse_directions(
    columns: Tensor,
    generator: torch.Generator,
    noise: float = 0.0,
    limits: DirectionLimits = DIRECTION_LIMITS,
) -> Tensor:
    """Unit directions q (N, B), N at most B, for which `columns` (O, B) q has many numbers near 0; float64.

    `columns` are orthonormal, and wrong by `noise`, relatively. The sparsest come first, some may be one direction, and
    not each is an image's error.
    """
    if columns.shape[1] == 1:
        return torch.ones((1, 1), dtype=columns.dtype, device=columns.device)
    limits = replace(limits, exact=max(limits.exact, limits.above_noise * noise))
    return _trimmed(columns, independent_directions(columns, generator, limits), limits)


def independent_directions(
    columns: Tensor, generator: torch.Generator, limits: DirectionLimits = DIRECTION_LIMITS
) -> Tensor:
    """Where the analysis alone expects such directions (N, B), the sparsest first; `columns` (O, B) are orthonormal."""
    units, count = columns.shape
    scaled = columns * units**0.5
    mixing = _orthogonal(torch.randn((count, count), generator=generator, dtype=columns.dtype))
    for _ in range(limits.turns):
        bent = torch.tanh(limits.slope * (scaled @ mixing))
        mixing = _orthogonal(scaled.mT @ bent / units - limits.slope * mixing * (1.0 - bent.square()).mean(0))
    found = mixing.mT
    sizes = (found @ scaled.mT).abs().mean(1)
    order = sizes.argsort()
    return found[order[sizes[order] < limits.sparse]]


def _trimmed(columns: Tensor, directions: Tensor, limits: DirectionLimits) -> Tensor:
    """Those of `directions` (N, B) that become exact when fitted to ever more of the units that they leave most off.

    A unit counts by the direction of its row alone. One that is on for no image is off for each, and says nothing.
    """
    size = columns.norm(dim=1)
    live = size > limits.live * size.max()
    seen = columns[live]
    rows = seen / size[live, None]
    dead, least = len(columns) - len(rows), limits.zeros_an_image * columns.shape[1]
    found = []
    for direction in directions:
        for turn in range(limits.most_fits):
            share = limits.shares[min(turn, len(limits.shares) - 1)]
            many = max(int(share * len(columns)) - dead, least)
            if many >= len(rows):
                break
            fitted = (rows @ direction).abs().topk(many, largest=False).indices
            direction = least_said(rows[fitted])
            error = seen @ direction
            if float(error[fitted].abs().median() / error.abs().max()) < limits.exact:
                found.append(least_said(rows[units_off(columns @ direction, limits)[live]]))
                break
    return torch.stack(found) if found else directions[:0]


def units_off(error: Tensor, limits: DirectionLimits = DIRECTION_LIMITS) -> Tensor:
    """Which numbers of an exact direction's `error` (O,) are 0 but for rounding."""
    size = error.abs()
    off: Tensor = (
        size <= limits.noise * max(_floor(error, limits), torch.finfo(torch.float32).eps) * size.max()
    )
    return off


def _floor(error: Tensor, limits: DirectionLimits) -> float:
    """The median of the smallest numbers of `error` (O,), relative to the largest."""
    size = error.abs()
    least = size.topk(max(int(limits.shares[0] * len(size)), 1), largest=False).values
    return float(least.median() / size.max())


def least_said(rows: Tensor) -> Tensor:
    """The unit vector that `rows` (N, B) say least of."""
    least: Tensor = torch.linalg.eigh(rows.mT @ rows).eigenvectors[:, 0]
    return least


def _orthogonal(mixing: Tensor) -> Tensor:
    left, _, right = torch.linalg.svd(mixing)
    nearest: Tensor = left @ right
    return nearest
