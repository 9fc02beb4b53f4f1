"""A convolution as a form in three tensors, each of whose derivatives is one kernel, as often as it is differentiated.

The sum over all numbers of `error * convolution(images, weight)` is linear in each of the three. So the derivative of
any of the three operations of this page is made of the other two. The library's own second derivative of a convolution
forms a weight's gradient too that nothing reads, and its first one takes a kernel for it that is the slower way on a
CPU for few pixels (docs/decisions/0090-convolutions-as-forms.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from attack_core.gradients.kernels.few_channels import FEW_CHANNELS_LIMITS, image_gradient
from attack_core.gradients.kernels.fixed import is_kept, keep_transforms_of, transforms_of
from attack_core.gradients.kernels.neighbourhoods import neighbourhoods
from attack_core.gradients.kernels.winograd import WINOGRAD_LIMITS, convolution, weight_gradient
from fl_core.base.types import Tensors


@dataclass(frozen=True, kw_only=True)
class ConvolutionLimits:
    """Which way a weight's gradient is computed; time alone depends on it. Measured on cnn64, lenet and resnet18."""

    most_patches: int = 1 << 21
    """CPU: up to so many numbers in the patches of a call they are written out, and one matrix product takes them.

    One image of cnn64's second layer: 0.6 million, 3.1 ms beside 5.4 of the library's kernel. Eight: no gain.
    """


CONVOLUTION_LIMITS = ConvolutionLimits()
"""The limits in force."""


def channels_last(tensors: Tensors) -> Tensors:
    """The same numbers, on the CPU with the channels last in memory where there are four axes.

    Convolutions run faster on the CPU in this layout (a fifth, measured on cnn64), and so does what follows them.
    """
    return {
        name: value.contiguous(memory_format=torch.channels_last)
        if value.dim() == 4 and value.device.type == "cpu"
        else value
        for name, value in tensors.items()
    }


def fixed_weights(tensors: Tensors) -> Tensors:
    """`channels_last` of weights that stay what they are, so that what convolutions compute of them alone is kept."""
    found = channels_last(tensors)
    for value in found.values():
        if value.shape[2:] == (3, 3):
            keep_transforms_of(value)
    return found


@dataclass(frozen=True)
class Geometry:
    """How a two-dimensional convolution moves over zero-padded images; each pair is (rows, columns)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    @classmethod
    def of(cls, layer: nn.Conv2d) -> Self:
        """Of a layer whose padding is given as numbers."""
        pairs = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
        kernel, stride, padding, dilation = (cast("tuple[int, int]", pair) for pair in pairs)
        return cls(kernel, stride, padding, dilation, layer.groups)

    def convolution(self, images: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Outputs (N, O, H', W') of images (N, I, H, W), weight (O, I / groups, *kernel) and bias (O,).

        Of a single image without the first axis too.
        """
        if images.dim() == 3:
            return self.convolution(images[None], weight, bias)[0]
        return _Convolution.apply(images, weight, bias, self)  # type: ignore[no-any-return]

    def back(self, error: Tensor, weight: Tensor, size: torch.Size) -> Tensor:
        """The images' gradient, of `size` (N, I, H, W), where the outputs' is `error` (N, O, H', W')."""
        return _Back.apply(error, weight, size, self)  # type: ignore[no-any-return]

    def weight_gradients(self, images: Tensor, errors: Tensor) -> Tensor:
        """Each candidate's gradient of the weight, (C, O, I / groups, *kernel): images (C, B, I, H, W) and `errors`."""
        return _Weight.apply(images, errors, self)  # type: ignore[no-any-return]

    def weight_gradient(self, images: Tensor, error: Tensor) -> Tensor:
        """The weight's gradient (O, I / groups, *kernel)."""
        return self.weight_gradients(images[None], error[None])[0]

    def patches(self, images: Tensor, size: torch.Size) -> Tensor:
        """What the kernel meets for each output of (N, O, H', W') = `size`: (N H' W', rows * columns * I)."""
        return _Patches.apply(images, size, self)  # type: ignore[no-any-return]

    def _by_winograd(
        self, images: Tensor, channels: tuple[int, int], size: tuple[int, int], weight: Tensor | None
    ) -> bool:
        """Whether outputs of `size`, with so many `channels` in and out, are computed by `kernels.winograd`.

        `images` (N, ...) are what goes in. `weight` None stands for one that is not kept.
        """
        plain = self.kernel == (3, 3) and self.stride == self.dilation == (1, 1) and self.groups == 1
        new = weight is None or not is_kept(weight)
        return plain and max(self.padding) <= 2 and WINOGRAD_LIMITS.pays(images, channels, size, new=new)

    def _patches(self, images: Tensor, size: torch.Size) -> Tensor:
        met = neighbourhoods(
            images,
            (size[2], size[3]),
            kernel=self.kernel,
            stride=self.stride,
            dilation=self.dilation,
            before=self.padding,
            after=self.padding,
        )
        return met.reshape(size[0] * size[2] * size[3], -1)

    def _kernels(self, error: Tensor, images: Tensor, weight: Tensor, mask: list[bool]) -> tuple[Tensor, ...]:
        """The library's kernels for the gradients of images and weight, those where `mask`."""
        settings = (self.stride, self.padding, self.dilation, False, (0, 0), self.groups)
        found = torch.ops.aten.convolution_backward(error, images, weight, None, *settings, [*mask, False])
        return cast("tuple[Tensor, ...]", found)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
        ctx.geometry = geometry
        ctx.save_for_backward(images, weight)
        (down, across), (height, width) = geometry.padding, images.shape[2:]
        channels, size = (weight.shape[1], weight.shape[0]), (height + 2 * down - 2, width + 2 * across - 2)
        if geometry._by_winograd(images, channels, size, weight):
            return convolution(images, transforms_of(weight), bias, down, across)
        moves = (geometry.stride, geometry.padding, geometry.dilation, geometry.groups)
        return functional.conv2d(images, weight, bias, *moves)

    @staticmethod
    def backward(ctx: Any, error: Tensor) -> tuple[Tensor | None, ...]:
        images, weight = ctx.saved_tensors
        wanted, geometry = ctx.needs_input_grad, ctx.geometry
        return (
            geometry.back(error, weight, images.shape) if wanted[0] else None,
            geometry.weight_gradient(images, error) if wanted[1] else None,
            error.sum((0, 2, 3)) if wanted[2] else None,
            None,
        )


class _Back(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, error: Tensor, weight: Tensor, size: torch.Size, geometry: Geometry) -> Tensor:
        ctx.geometry = geometry
        ctx.save_for_backward(error, weight)
        (down, across), (_, channels, *side) = geometry.padding, size
        if geometry._by_winograd(error, (weight.shape[0], channels), (side[0], side[1]), weight):
            return convolution(error, transforms_of(weight, back=True), None, 2 - down, 2 - across)
        if geometry.stride == (1, 1) and geometry.groups == 1 and FEW_CHANNELS_LIMITS.pays(error, channels):
            return image_gradient(error, weight, size, geometry.padding, geometry.dilation)
        # Of the images the kernel reads the size alone.
        images = error.new_empty(1).expand(size)
        return geometry._kernels(error, images, weight, [True, False])[0]

    @staticmethod
    def backward(ctx: Any, images: Tensor) -> tuple[Tensor | None, ...]:
        error, weight = ctx.saved_tensors
        wanted, geometry = ctx.needs_input_grad, ctx.geometry
        return (
            geometry.convolution(images, weight) if wanted[0] else None,
            geometry.weight_gradient(images, error) if wanted[1] else None,
            None,
            None,
        )


class _Weight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, errors: Tensor, geometry: Geometry) -> Tensor:
        ctx.geometry = geometry
        ctx.save_for_backward(images, errors)
        return _stacked([_weight(geometry, *pair) for pair in zip(images, errors, strict=True)])

    @staticmethod
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor | None, ...]:
        images, errors = ctx.saved_tensors
        wanted, geometry = ctx.needs_input_grad, ctx.geometry
        size = images.shape[1:]
        return (
            _stacked([geometry.back(*pair, size) for pair in zip(errors, weights, strict=True)])
            if wanted[0]
            else None,
            _stacked([geometry.convolution(*pair) for pair in zip(images, weights, strict=True)])
            if wanted[1]
            else None,
            None,
        )


class _Patches(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, size: torch.Size, geometry: Geometry) -> Tensor:
        ctx.geometry, ctx.shape, ctx.outputs = geometry, images.shape, size
        return geometry._patches(images, size)

    @staticmethod
    def backward(ctx: Any, rows: Tensor) -> tuple[Tensor | None, ...]:
        g, (images, channels, *side) = ctx.geometry, ctx.shape
        # The library adds up columns whose channel comes before the kernel's place.
        columns = rows.view(images, -1, math.prod(g.kernel), channels).permute(0, 3, 2, 1).flatten(1, 2)
        moves = (g.kernel, g.dilation, g.padding, g.stride)
        return functional.fold(columns, tuple(side), *moves), None, None


def _weight(geometry: Geometry, images: Tensor, error: Tensor) -> Tensor:
    """One candidate's gradient, by the way that its shapes make the cheaper one."""
    rows, columns = geometry.kernel
    shape = (error.shape[1], images.shape[1] // geometry.groups, rows, columns)
    if geometry._by_winograd(images, shape[:2], (error.shape[2], error.shape[3]), None):
        return weight_gradient(images, error, *geometry.padding)
    pixels = error.shape[0] * error.shape[2] * error.shape[3]
    few = pixels * rows * columns * images.shape[1] <= CONVOLUTION_LIMITS.most_patches
    if error.device.type != "cpu" or geometry.groups > 1 or not few:
        weight = error.new_empty(1).expand(shape)
        return geometry._kernels(error, images, weight, [False, True])[1]
    errors = error.permute(0, 2, 3, 1).reshape(pixels, shape[0])
    found = errors.mT @ geometry._patches(images, error.shape)
    return found.view(shape[0], rows, columns, shape[1]).permute(0, 3, 1, 2)


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    """Candidates' tensors along a new first axis, in the layout of theirs."""
    if len(parts) == 1:
        return parts[0][None]
    if parts[0].is_contiguous(memory_format=torch.channels_last):
        return torch.stack([part.movedim(1, -1) for part in parts]).movedim(-1, 2)
    return torch.stack(list(parts))
