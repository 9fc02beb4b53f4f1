"""Least squares for linear maps that are applied and never formed, with singular values that were met on the way."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Apply = Callable[[Tensor], Tensor]
"""A linear map, applied."""


@dataclass(frozen=True)
class LeastSquares:
    """The `found` x, how many `steps` it took, and the `least` and `largest` singular value that the steps met.

    Both lie within the map's own; the least comes down to it as the steps go on.
    """

    found: Tensor
    steps: int
    least: float
    largest: float


def solve_least_squares(
    apply: Apply, adjoint: Apply, wanted: Tensor, *, turns: int, enough: Callable[[Tensor], bool]
) -> LeastSquares:
    """The x that brings apply(x) nearest to `wanted`, from 0 on, by conjugate gradients on the normal equations.

    It ends after `turns` steps, where `enough` says so of the x at hand, or where rounding is all that is left.
    CGLS (Hestenes and Stiefel 1952); its steps are those of Lanczos (Golub and Van Loan, Matrix Computations, 10.2),
    whose tridiagonal matrix has the singular values' squares.
    """
    residual = wanted.clone()
    slope = adjoint(residual)
    direction, square = slope.clone(), float(slope.square().sum())
    found, first = torch.zeros_like(slope), square
    lengths: list[float] = []
    turned: list[float] = []
    while len(lengths) < turns and square > torch.finfo(slope.dtype).eps ** 2 * first:
        if enough(found):
            break
        applied = apply(direction)
        energy = float(applied.square().sum())
        if not energy > 0.0:
            break
        length = square / energy
        found = found + length * direction
        residual = residual - length * applied
        slope = adjoint(residual)
        square, before = float(slope.square().sum()), square
        direction = slope + square / before * direction
        lengths.append(length)
        turned.append(square / before)
    least, largest = _singular_values(lengths, turned)
    return LeastSquares(found, len(lengths), least, largest)


def _singular_values(lengths: list[float], turned: list[float]) -> tuple[float, float]:
    """The least and the largest that the steps have met."""
    count = len(lengths)
    if not count:
        return 0.0, 0.0
    matrix = torch.zeros((count, count), dtype=torch.float64)
    for i, length in enumerate(lengths):
        matrix[i, i] = 1.0 / length + (turned[i - 1] / lengths[i - 1] if i else 0.0)
        if i + 1 < count:
            matrix[i, i + 1] = matrix[i + 1, i] = math.sqrt(turned[i]) / length
    values = torch.linalg.eigvalsh(matrix).clamp_min(0.0).sqrt()
    return float(values[0]), float(values[-1])
