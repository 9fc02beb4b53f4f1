"""Opponent colours, and the image prior that uses them.

In photographs the three colour channels rise and fall together: brightness carries nearly all fine structure, colour
differences hardly any (Ruderman et al. 1998), and image files store the latter at half the resolution. A prior that
charges colour edges more than brightness edges is told apart from plain total variation by several dB where the
signal leaves fine structure open (benchmarks/RESULTS.md).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_AXES = ((3**-0.5, 3**-0.5, 3**-0.5), (2**-0.5, 0.0, -(2**-0.5)), (6**-0.5, -2 * 6**-0.5, 6**-0.5))


def colour_axes(like: Tensor) -> Tensor:
    """(3, 3), orthonormal rows: brightness, red against blue, green against both; (1, 1) for grey images.

    `like` is images (..., C, H, W); the axes are on its device.
    """
    axes = _AXES if like.shape[-3] == 3 else ((1.0,),)
    return torch.tensor(axes, dtype=torch.float32, device=like.device)


def colour_variation(images: Tensor, *, chroma: float = 3.0, edge: float = 0.1) -> Tensor:
    """Smooth total variation in opponent colours (brightness and two colour differences) of images (N, C, H, W), (N,).

    Grey images (C = 1) have brightness alone.

    Each difference d of neighbours costs sqrt(d^2 + edge^2) - edge: linear for edges, as in total variation, and
    quadratic below `edge` (normalised pixel units), which second-order optimizers need. Colour differences count
    `chroma` times brightness differences. It can be differentiated once.
    """
    axes = colour_axes(images)
    weights = torch.tensor([[1.0], [chroma], [chroma]][: len(axes)], device=images.device)
    return _Variation.apply(images, axes * weights, edge)  # type: ignore[no-any-return]


class _Variation(torch.autograd.Function):
    """The variation with its slope on the way: a third of the time that the library takes for it piece by piece."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, turn: Tensor, edge: float) -> Tensor:
        turned = torch.einsum("kc,nchw->nkhw", turn, images)
        slope, total = torch.zeros_like(turned), turned.new_zeros(len(turned))
        for axis in (-2, -1):
            steps = turned.diff(dim=axis)
            roots = (steps.square() + edge * edge).sqrt()
            total = total + (roots - edge).flatten(1).sum(1)
            each, count = steps.div_(roots), steps.shape[axis]
            slope.narrow(axis, 1, count).add_(each)
            slope.narrow(axis, 0, count).sub_(each)
        ctx.save_for_backward(torch.einsum("kc,nkhw->nchw", turn, slope))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = ctx.saved_tensors
        return weights.view(-1, 1, 1, 1) * slope, None, None
