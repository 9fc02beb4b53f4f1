"""Convolutions of 3 x 3 in a quarter of the multiplications: Winograd's F(4 x 4, 3 x 3) as three matrix products.

Tiles of 6 x 6 pixels, one every four, give 4 x 4 outputs each. Tiles and kernel become 36 numbers for each channel,
which are multiplied place by place and summed over channels, one matrix product for each place (Lavin and Gray 2016,
arXiv:1509.09308). The numbers are the direct sum's up to rounding, which is some four times as large. On a CPU alone:
libraries of GPUs do this by themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from attack_core.gradients.kernels.neighbourhoods import neighbourhoods
from attack_core.gradients.kernels.operators import OPERATORS, are_for


@dataclass(frozen=True, kw_only=True)
class WinogradLimits:
    """Which convolutions are computed so; time and rounding alone depend on it.

    Measured on one thread of an AVX-512 core, time over that of the library's kernel (docs/decisions, 0119).
    """

    channels: int = 64
    """As many channels have to come in, and go out: 64 of 32 pixels take 0.71, 32 take 1.05, 16 take 1.2."""
    tiles: int = 16
    """So many tiles at least, where the weight's transform is at hand: 512 channels take 1.8 for one tile."""
    tiles_of_new: int = 48
    """The same where the weight has to be transformed first, which takes as long as some 27 tiles save."""
    work: int = 1 << 18
    """And so many products of a tile's channels in and out, over all tiles.

    An evaluation of cnn64 takes 1.06 if its one convolution of 2^17 is computed so (32 pixels), and 0.86 with two of
    2^19 (64 pixels).
    """
    waste: float = 1.25
    """How many outputs the tiles may have for each that is wanted: 1.31, as of 14 pixels, takes 1.06."""
    at_a_time: int = 64
    """Images go in groups of so many tiles, so that what lies between the products stays in the core's cache.

    Eight images of 64 tiles: 0.65, all at once 0.72.
    """

    def pays(self, images: Tensor, channels: tuple[int, int], size: tuple[int, int], *, new: bool) -> bool:
        """Whether outputs of `size` (H', W') are computed so, with so many `channels` in and out.

        `images` (N, ...) are what goes in; `new` says that a weight has to be transformed first, or back.
        """
        if min(channels) < self.channels or not are_for(images):
            return False
        one = _tiles(size[0]) * _tiles(size[1])
        if 16 * one > self.waste * size[0] * size[1]:
            return False
        tiles = len(images) * one
        enough = tiles >= (self.tiles_of_new if new else self.tiles)
        return enough and tiles * channels[0] * channels[1] >= self.work


WINOGRAD_LIMITS = WinogradLimits()
"""The limits in force."""


@dataclass(frozen=True)
class _Transforms:
    """What 6 x 6 pixels (36, 36), 3 x 3 weights (36, 9) and 4 x 4 outputs (16, 36) are multiplied by."""

    pixels: Tensor
    weights: Tensor
    outputs: Tensor


@lru_cache(maxsize=1)
def _transforms() -> _Transforms:
    """The Toom-Cook transforms at the points 0, 5/8, -5/8, 3/2, -3/2 and infinity.

    The usual points 0, 1, -1, 2, -2 round twice as much: 1.9e-6 of the outputs, where these have 0.9e-6 and direct sums
    0.2e-6 (128 channels in, 64 out).
    """
    # By NumPy: the attack's tensors are float32 all the way.
    points = np.array([0.0, 0.625, -0.625, 1.5, -1.5])

    def at_points(count: int) -> Any:
        infinity = np.eye(count)[-1:]
        return np.concatenate([points[:, None] ** np.arange(count), infinity])

    pixels, weights, outputs = np.linalg.inv(at_points(6)).T, at_points(3), at_points(4).T
    each = (np.kron(one, one).astype(np.float32) for one in (pixels, weights, outputs))
    return _Transforms(*map(torch.from_numpy, each))


def transformed(weight: Tensor) -> Tensor:
    """A weight (O, I, 3, 3) as the 36 matrices (36, I, O) that tiles are multiplied by."""
    outputs, inputs = weight.shape[:2]
    places = weight.permute(2, 3, 1, 0).reshape(9, inputs * outputs)
    return torch.mm(_transforms().weights, places).view(36, inputs, outputs)


def turned(weight: Tensor) -> Tensor:
    """The weight (I, O, 3, 3) of the convolution from errors to the images' gradient."""
    return weight.flip(2, 3).transpose(0, 1)


def convolution(images: Tensor, weights: Tensor, bias: Tensor | None, rows: int, columns: int) -> Tensor:
    """Outputs (N, O, H', W'), the channels last, of images (N, I, H, W) with `rows` and `columns` of zeros around them.

    `weights` (36, I, O) are as `transformed` has them.
    """
    found: Tensor = torch.ops.gradsweep.winograd(images, weights, bias, rows, columns)
    return found


def weight_gradient(images: Tensor, errors: Tensor, rows: int, columns: int) -> Tensor:
    """The weight's gradient (O, I, 3, 3), the channels last, where the outputs' is `errors` (N, O, H', W').

    `rows` and `columns` of zeros surround the images (N, I, H, W).
    """
    found: Tensor = torch.ops.gradsweep.winograd_weight(images, errors, rows, columns)
    return found


def _convolution(images: Tensor, weights: Tensor, bias: Tensor | None, rows: int, columns: int) -> Tensor:
    """See `convolution`."""
    height, width = images.shape[2] + 2 * rows - 2, images.shape[3] + 2 * columns - 2
    tiles = (_tiles(height), _tiles(width))
    # No view: networks may change it in place.
    found = _empty(images, (len(images), weights.shape[2], height, width))
    step = max(1, WINOGRAD_LIMITS.at_a_time // (tiles[0] * tiles[1]))
    for part, out in zip(images.split(step), found.permute(0, 2, 3, 1).split(step), strict=True):
        _convolve(part, weights, (rows, columns), tiles, out)
        if bias is not None:
            out += bias
    return found


def _convolve(
    images: Tensor, weights: Tensor, padding: tuple[int, int], tiles: tuple[int, int], out: Tensor
) -> None:
    """Outputs of a group of images, written to `out` (N, H', W', O)."""
    met = torch.bmm(_tiled(images, padding, tiles), weights)
    places = torch.mm(_transforms().outputs, met.view(36, -1)).view(4, 4, len(images), *tiles, out.shape[3])
    # (N, tiles down, 4, tiles across, 4, O)
    placed = places.permute(2, 3, 0, 4, 1, 5)
    if out.shape[1:3] == (4 * tiles[0], 4 * tiles[1]):
        out.view(placed.shape).copy_(placed)
    else:
        whole = placed.reshape(len(out), 4 * tiles[0], 4 * tiles[1], out.shape[3])
        out.copy_(whole[:, : out.shape[1], : out.shape[2]])


def _weight_gradient(images: Tensor, errors: Tensor, rows: int, columns: int) -> Tensor:
    """See `weight_gradient`."""
    inputs, outputs = images.shape[1], errors.shape[1]
    tiles = (_tiles(errors.shape[2]), _tiles(errors.shape[3]))
    matrices, total = _transforms(), images.new_zeros((36, outputs, inputs))
    # Each group adds to all of the total, so groups are larger than those of outputs.
    step = max(1, 4 * WINOGRAD_LIMITS.at_a_time // (tiles[0] * tiles[1]))
    for part, error in zip(images.split(step), errors.split(step), strict=True):
        placed = _outputs_tiled(error, tiles)
        met = torch.mm(matrices.outputs.T, placed.view(16, -1)).view(36, -1, outputs)
        total.baddbmm_(met.mT, _tiled(part, (rows, columns), tiles))
    found = torch.mm(matrices.weights.T, total.view(36, -1)).view(3, 3, outputs, inputs)
    return _empty(images, (outputs, inputs, 3, 3)).copy_(found.permute(2, 3, 0, 1))


def _tiles(outputs: int) -> int:
    """How many tiles make so many outputs."""
    return -(-outputs // 4)


def _tiled(images: Tensor, padding: tuple[int, int], tiles: tuple[int, int]) -> Tensor:
    """Images' (N, I, H, W) tiles, transformed: (36, N tiles, I)."""
    after = [
        4 * count + 2 - side - zeros
        for count, side, zeros in zip(tiles, images.shape[2:], padding, strict=True)
    ]
    met = neighbourhoods(
        images,
        tiles,
        kernel=(6, 6),
        stride=(4, 4),
        dilation=(1, 1),
        before=padding,
        after=(after[0], after[1]),
    )
    places = met.permute(3, 4, 0, 1, 2, 5).reshape(36, -1)
    return torch.mm(_transforms().pixels, places).view(36, -1, images.shape[1])


def _outputs_tiled(errors: Tensor, tiles: tuple[int, int]) -> Tensor:
    """Outputs' errors (N, O, H', W') by their place in a tile: (4, 4, N, tiles down, tiles across, O), contiguous."""
    count, channels, height, width = errors.shape
    last = errors.permute(0, 2, 3, 1)
    if (height, width) != (4 * tiles[0], 4 * tiles[1]):
        last = functional.pad(last, (0, 0, 0, 4 * tiles[1] - width, 0, 4 * tiles[0] - height))
    return last.reshape(count, tiles[0], 4, tiles[1], 4, channels).permute(2, 4, 0, 1, 3, 5).contiguous()


def _empty(like: Tensor, size: tuple[int, int, int, int]) -> Tensor:
    """A tensor of this size, the channels last in memory."""
    return torch.empty(size, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


def _like_outputs(
    images: Tensor,
    weights: Tensor,
    bias: Tensor | None,  # noqa: ARG001 - the operator's own parameters
    rows: int,
    columns: int,
) -> Tensor:
    """A tensor of the shape and layout of outputs."""
    height, width = images.shape[2] + 2 * rows - 2, images.shape[3] + 2 * columns - 2
    return _empty(images, (len(images), weights.shape[2], height, width))


def _like_weight(images: Tensor, errors: Tensor, rows: int, columns: int) -> Tensor:  # noqa: ARG001
    """A tensor of the shape and layout of a weight's gradient."""
    return _empty(images, (errors.shape[1], images.shape[1], 3, 3))


OPERATORS.define("winograd(Tensor images, Tensor weights, Tensor? bias, int rows, int columns) -> Tensor")
OPERATORS.impl("winograd", _convolution, "CPU")
OPERATORS.impl("winograd", _like_outputs, "Meta")
OPERATORS.define("winograd_weight(Tensor images, Tensor errors, int rows, int columns) -> Tensor")
OPERATORS.impl("winograd_weight", _weight_gradient, "CPU")
OPERATORS.impl("winograd_weight", _like_weight, "Meta")
