"""Means of neighbours whose derivatives are one copy: the library fills a tensor with zeros first, and adds to it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional


def is_plain(layer: nn.Module) -> bool:
    """Whether a layer divides images into fields without gaps and overlaps, and takes each one's mean."""
    if not isinstance(layer, nn.AvgPool2d) or "forward" in vars(layer):
        return False
    if type(layer).forward is not nn.AvgPool2d.forward:
        return False
    field, stride, padding = (_pair(each) for each in (layer.kernel_size, layer.stride, layer.padding))
    return field == stride and padding == (0, 0) and not layer.ceil_mode and layer.divisor_override is None


def means_of(layer: nn.AvgPool2d) -> Callable[[Tensor], Tensor]:
    """What `layer`, for which `is_plain` holds, makes of images (N, C, H, W); differentiable as often as needed."""
    return partial(_means, _pair(layer.kernel_size))


def _means(field: tuple[int, int], images: Tensor) -> Tensor:
    rows, columns = field
    whole = images.dim() == 4 and images.shape[2] % rows == images.shape[3] % columns == 0
    if not whole or images.device.type != "cpu":
        return functional.avg_pool2d(images, field)
    found: Tensor = _Means.apply(images, field)
    return found


def _pair(number: int | tuple[int, ...]) -> tuple[int, int]:
    return cast("tuple[int, int]", tuple(number) if isinstance(number, tuple | list) else (number, number))


class _Means(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, field: tuple[int, int]) -> Tensor:
        ctx.field = field
        return functional.avg_pool2d(images, field)

    @staticmethod
    def backward(ctx: Any, error: Tensor) -> tuple[Tensor | None, ...]:
        return _Spread.apply(error, ctx.field), None


class _Spread(torch.autograd.Function):
    """The adjoint: each field has its error, over the field's size."""

    @staticmethod
    def forward(ctx: Any, error: Tensor, field: tuple[int, int]) -> Tensor:
        ctx.field, (rows, columns) = field, field
        count, channels, height, width = error.shape
        share = error * (1.0 / (rows * columns))
        # Along the axes as they lie in memory, so that the copy is one pass.
        if error.is_contiguous(memory_format=torch.channels_last):
            fields = share.permute(0, 2, 3, 1)[:, :, None, :, None]
            spread = fields.expand(count, height, rows, width, columns, channels)
            return spread.reshape(count, height * rows, width * columns, channels).permute(0, 3, 1, 2)
        spread = share[:, :, :, None, :, None].expand(count, channels, height, rows, width, columns)
        return spread.reshape(count, channels, height * rows, width * columns)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        return _Means.apply(slope, ctx.field), None
