"""Opponent colours, and the image prior that uses them.

In photographs the three colour channels rise and fall together: brightness carries nearly all fine structure, colour
differences hardly any (Ruderman et al. 1998), and image files store the latter at half the resolution. A prior that
charges colour edges more than brightness edges is told apart from plain total variation by several dB where the
signal leaves fine structure open (benchmarks/RESULTS.md).
"""

from __future__ import annotations

import torch
from torch import Tensor

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
    turned = torch.einsum("kc,nchw->nkhw", axes * weights, images)
    vertical = turned[..., 1:, :] - turned[..., :-1, :]
    horizontal = turned[..., :, 1:] - turned[..., :, :-1]
    return _smooth(vertical, edge) + _smooth(horizontal, edge)


def _smooth(differences: Tensor, edge: float) -> Tensor:
    return ((differences.square() + edge * edge).sqrt() - edge).flatten(1).sum(1)
