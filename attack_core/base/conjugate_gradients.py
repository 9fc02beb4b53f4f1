"""Conjugate gradients for linear maps that are applied and never formed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Operator = Callable[[Tensor], Tensor]
"""A symmetric positive definite linear map, applied."""


def solve_definite(
    apply: Operator,
    wanted: Tensor,
    *,
    turns: int,
    converged: float,
    preconditioner: Tensor | float = 1.0,
) -> Tensor:
    """The x, of the shape of `wanted`, with apply(x) = `wanted`, from 0 on.

    It ends after `turns` steps, or where the residual is `converged` times the norm of `wanted`. `preconditioner`, of
    that shape, stands for the inverse's diagonal. Hestenes and Stiefel 1952. A semidefinite map does where `wanted` is
    in its range.
    """
    found, residual = torch.zeros_like(wanted), wanted.clone()
    better = preconditioner * residual
    direction, product = better.clone(), (residual * better).sum()
    enough = converged * torch.linalg.vector_norm(wanted)
    least = torch.finfo(wanted.dtype).tiny
    for _ in range(turns):
        if torch.linalg.vector_norm(residual) <= enough:
            break
        applied = apply(direction)
        step = product / (direction * applied).sum().clamp_min(least)
        found += step * direction
        residual -= step * applied
        better = preconditioner * residual
        product, before = (residual * better).sum(), product
        direction = better + product / before * direction
    return found
