"""Inner products between candidates' gradients and targets, parameter by parameter, and what they are turned into.

Axes: C candidates, P parameters. Each sequence has an entry for each parameter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from attack_core.gradients.handles import DenseHandle, GhostHandle, GradientHandle, PatchHandle, flat

Factors: TypeAlias = tuple[Tensor, Tensor]
"""Two matrices, (O, r) and (r, N)."""


@dataclass(frozen=True, kw_only=True)
class ProductLimits:
    """Below which sizes a gradient counts as 0; set by what float32 holds, not by measurement."""

    least_square: float = 1e-24
    """Squared norms below are 0 to a cosine: their roots have slopes that float32 cannot hold products of."""
    least_scale: float = 1e-12
    """The mean absolute value that signs are compared at is at least this."""
    least_energy: float = 1e-12
    """The squared norm that the best factor of a clipped gradient is divided by is at least this."""


PRODUCT_LIMITS = ProductLimits()
"""The limits in force."""


def squared_distances(
    handles: Sequence[GradientHandle],
    targets: Sequence[Tensor],
    squares: Tensor,
    factors: Sequence[Factors | None],
) -> Tensor:
    """Squared L2 distances (C, P); `squares` (P,) are the targets' squared norms."""
    found = []
    for handle, target, square, pair in zip(handles, targets, squares, factors, strict=True):
        if pair is None or isinstance(handle, DenseHandle):
            found.append(handle.squared_distance(target, square))
        else:
            found.append(handle.squared_norm() - 2.0 * _dot(handle, target, pair) + square)
    return torch.stack(found, dim=1)


def inner_products(
    handles: Sequence[GradientHandle], targets: Sequence[Tensor], factors: Sequence[Factors | None]
) -> Tensor:
    """Inner products with the targets, (C, P)."""
    each = zip(handles, targets, factors, strict=True)
    return torch.stack([_dot(*parts) for parts in each], dim=1)


def squared_norms(handles: Sequence[GradientHandle], masks: Sequence[Tensor | None]) -> Tensor:
    """Squared norms (C, P) of the gradients where `masks` are 1, or everywhere."""
    pairs = zip(handles, masks, strict=True)
    return torch.stack([handle.squared_norm(mask) for handle, mask in pairs], dim=1)


def surprises(handles: Sequence[GradientHandle], targets: Sequence[Tensor], factor: Tensor | None) -> Tensor:
    """The logistic loss of the signs of the targets' numbers that are not 0, in bits, (C, P).

    Of the gradients times `factor` (C,), where there is one.
    """
    found = []
    for handle, target in zip(handles, targets, strict=True):
        known = target.count_nonzero().clamp_min(1)
        scale = (target.abs().sum() / known).clamp_min(PRODUCT_LIMITS.least_scale)
        margins = flat(handle.dense() * (2.0 * target.sign() / scale))
        margins = margins if factor is None else margins * factor[:, None]
        bits = functional.softplus(-margins) * (target != 0).flatten()
        found.append(bits.sum(1) / (known * math.log(2.0)))
    return torch.stack(found, dim=1)


def weighted_residuals(
    handles: Sequence[GradientHandle],
    targets: Sequence[Tensor],
    weights: Tensor,
    masks: Sequence[Tensor | None],
    factor: Tensor,
) -> Tensor:
    """What gradients times `factor`, () or (C,), leave of the targets, times the roots of `weights` (P,): (C, N)."""
    parts = []
    for handle, target, weight, mask in zip(handles, targets, weights, masks, strict=True):
        gradients = flat(handle.dense()) * factor[..., None]
        known = gradients if mask is None else gradients * mask.flatten()
        parts.append(weight.sqrt() * (target.flatten() - known))
    return torch.cat(parts, dim=1)


def _dot(handle: GradientHandle, target: Tensor, factors: Factors | None) -> Tensor:
    if factors is not None and isinstance(handle, GhostHandle | PatchHandle):
        return handle.dot_factors(*factors)
    return handle.dot(target)


def best_factor(dot: Tensor, norm: Tensor) -> Tensor:
    """The factor in [0, 1] that brings a gradient of squared norm `norm` nearest to the target, given their product."""
    return (dot / norm.clamp_min(PRODUCT_LIMITS.least_energy)).clamp(0.0, 1.0)


def cosine(dot: Tensor, norm: Tensor, square: Tensor) -> Tensor:
    """From an inner product and two squared norms; 0 without a slope where either is 0, as where nothing was sent.

    Roots are taken one by one: the product of the squares of two small gradients is below what float32 can tell from 0.
    """
    least = PRODUCT_LIMITS.least_square
    there = (norm > least) & (square > least)
    lengths = [torch.where(there, value, torch.ones_like(value)).sqrt() for value in (norm, square)]
    return torch.where(there, dot / lengths[0] / lengths[1], torch.zeros_like(dot))
