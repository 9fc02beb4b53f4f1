"""How many images a gradient is of: the rank of a fully connected layer's gradient, which no client can hide."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attack_core.fc.head import find_head
from fl_core.base.device import exact
from fl_core.base.errors import InputError
from fl_core.base.shape import ImageShape
from fl_core.base.types import ModelState, Tensors

_ROUNDING = 3e-6
"""Singular values below this share of the largest are rounding: float32 has 6e-8, for each of many that add up."""


def examples_in(model: nn.Module, state: ModelState, tensors: Tensors, shape: ImageShape) -> tuple[int, str]:
    """How many images are behind a signal, and how that is known.

    Each image adds a product of one error and one input to the gradient of a fully connected layer, so its rank is the
    number of images, up to the layer's smaller side. Where there is no such layer, or its rank is full, one image is
    taken. Several local steps on other images add up in the same way.
    """
    try:
        layer = find_head(model, state, shape).first
    except InputError as reason:
        return 1, f"nothing tells how many there are ({str(reason).rstrip('.')})"
    weight = tensors[f"{layer}.weight"]
    rank = numerical_rank(weight)
    if rank >= min(weight.shape):
        return (
            1,
            f"the gradient of {layer} has full rank, {rank}, which tells nothing; give Known(examples=...)",
        )
    return max(rank, 1), f"the gradient of {layer} has rank {max(rank, 1)}"


def numerical_rank(weight: Tensor) -> int:
    """The number of singular values of a matrix above rounding."""
    values = torch.linalg.svdvals(exact(weight, "the rank of a gradient"))
    return int((values > _ROUNDING * values[0]).sum()) if len(values) else 0
