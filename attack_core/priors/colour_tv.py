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
from torch.nn import functional

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
    `chroma` times brightness differences.
    """
    axes = colour_axes(images)
    weights = torch.tensor([[1.0], [chroma], [chroma]][: len(axes)], device=images.device)
    return _Variation.apply(images, axes * weights, edge)[0]  # type: ignore[no-any-return]


class _Variation(torch.autograd.Function):
    """The variation with its slope on the way: half the time that the library takes for it piece by piece."""

    generate_vmap_rule = True

    @staticmethod
    def forward(images: Tensor, turn: Tensor, edge: float) -> tuple[Tensor, Tensor]:
        return _with_slope(images, turn, edge)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: tuple[Tensor, Tensor]) -> None:
        images, turn, ctx.edge = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(images, turn, output[1])

    @staticmethod
    def backward(ctx: Any, weights: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        images, turn, slope = ctx.saved_tensors
        if torch.is_grad_enabled():  # A second derivative is wanted, which the stored slope has none of.
            slope = _with_slope(images, turn, ctx.edge)[1]
        return weights.view(-1, 1, 1, 1) * slope, None, None


def _with_slope(images: Tensor, turn: Tensor, edge: float) -> tuple[Tensor, Tensor]:
    """The variation (N,) of images (N, C, H, W) turned by `turn` (C, C), and its slope by the images."""
    turned = torch.einsum("kc,nchw->nkhw", turn, images)
    total, slope = turned.new_zeros(len(turned)), torch.zeros_like(turned)
    # Of rows and of columns: what goes before a difference falls by it, what comes after rises.
    for axis, before, after in ((-2, (0, 0, 0, 1), (0, 0, 1, 0)), (-1, (0, 1), (1, 0))):
        steps = turned.diff(dim=axis)
        roots = (steps.square() + edge * edge).sqrt()
        total = total + (roots - edge).flatten(1).sum(1)
        each = steps / roots
        slope = slope + functional.pad(each, after) - functional.pad(each, before)
    return total, torch.einsum("kc,nkhw->nchw", turn, slope)
