"""The images' gradient of a convolution of few channels, as the first layer's: one matrix product and shifted sums.

The library's kernel on the CPU works on sixteen channels at a time, three of which are there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attack_core.gradients.kernels.operators import OPERATORS, are_for


@dataclass(frozen=True, kw_only=True)
class FewChannelsLimits:
    """Which convolutions' gradients are computed so; time and rounding alone depend on it."""

    channels: int = 4
    """Up to so many channels of the images. Three of 64 x 64 pixels, 64 outputs, one thread of an AVX-512 core: 0.32 ms
    beside 0.47 of the library's kernel, of eight images 2.7 beside 6.2 (docs/decisions, 0119)."""
    outputs: int = 16
    """From so many outputs on. Not measured against other values."""

    def pays(self, error: Tensor, images: int) -> bool:
        """Whether the gradient of images of so many channels is computed so, of outputs' `error` (N, O, H', W')."""
        return images <= self.channels and error.shape[1] >= self.outputs and are_for(error)


FEW_CHANNELS_LIMITS = FewChannelsLimits()
"""The limits in force."""


def image_gradient(
    error: Tensor, weight: Tensor, size: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> Tensor:
    """The images' gradient, of `size` (N, I, H, W), of outputs' `error` (N, O, H', W').

    For convolutions that move by one pixel, in one group, of a `weight` (O, I, rows, columns).
    """
    found: Tensor = torch.ops.gradsweep.few_channels(error, weight, size, padding, dilation)
    return found


def _image_gradient(
    error: Tensor, weight: Tensor, size: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> Tensor:
    """See `image_gradient`."""
    outputs, channels, rows, columns = weight.shape
    (down, across), (height, width) = padding, error.shape[2:]
    places = weight.permute(2, 3, 1, 0).reshape(-1, outputs)
    found = error.new_zeros((*size[:2], size[2] + 2 * down, size[3] + 2 * across))
    # One image at a time: what the product gives stays in the core's cache.
    for one, out in zip(error, found, strict=True):
        parts = torch.mm(places, one.permute(1, 2, 0).reshape(-1, outputs).mT)
        parts = parts.view(rows, columns, channels, height, width)
        for row in range(rows):
            for column in range(columns):
                top, left = row * dilation[0], column * dilation[1]
                out[:, top : top + height, left : left + width] += parts[row, column]
    return found[:, :, down : down + size[2], across : across + size[3]].contiguous()


def _like_it(
    error: Tensor,
    weight: Tensor,  # noqa: ARG001 - the operator's own parameters
    size: Sequence[int],
    padding: Sequence[int],  # noqa: ARG001
    dilation: Sequence[int],  # noqa: ARG001
) -> Tensor:
    """A tensor of the shape and layout of the answer."""
    return error.new_empty(list(size))


OPERATORS.define(
    "few_channels(Tensor error, Tensor weight, int[] size, int[] padding, int[] dilation) -> Tensor"
)
OPERATORS.impl("few_channels", _image_gradient, "CPU")
OPERATORS.impl("few_channels", _like_it, "Meta")
