"""The inputs of a convolution for each image of a batch, exactly, where BatchNorm's statistics of that batch are seen.

In train mode BatchNorm takes the mean out of the errors that it hands back, so the rows of the gradient in front of it
span the patches less their mean (`attack_core.convolutions.patch_space` for one image without it). All pairs of an
input whose patches, less a mean, lie in that span, and of that mean, are as a rule the combinations of the batch's
images, which all have one mean. What the convolution makes of the mean is BatchNorm's mean of the batch. So where that
is seen, the height of each pair is known, and with it the scale: images are the corners of a simplex where inputs come
from a ReLU (`attack_core.fc.cone`), and no errors and no labels are needed.

The algebra runs in float64 on the CPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

from attack_core.base.conjugate_gradients import Operator, solve_definite
from attack_core.convolutions.calls import ConvolutionCall
from fl_core.base.decibels import TINY
from fl_core.base.device import exact
from fl_core.base.types import ModelState, Tensors

_PURPOSE = "solving for a batch's inputs of a convolution"


@dataclass(frozen=True, kw_only=True)
class BatchLimits:
    """When a batch's inputs are taken as found. Seen on pictures of CIFAR-10's training split, `resnet18`."""

    gap: float = 1e-3
    """How large, relative to the last singular value of the patches, the next one may be.

    It was 2e-6 of it at layer2.0.conv1.
    """
    more: float = 1e-3
    """Of the pairs found from one start more than there are images: how large the further singular value may be."""
    missed: float = 1e-2
    """How much of BatchNorm's seen mean, relatively, the mean patch may leave."""
    chained: float = 1e-2
    """How much of what a convolution hands on, relatively, an input found by it may leave."""
    turns: int = 600
    """Conjugate gradients: steps at most."""
    converged: float = 1e-9
    """Conjugate gradients: the relative residual at which they end."""
    zero: float = 1e-4
    """Inputs below this share of the largest are 0."""


BATCH_LIMITS = BatchLimits()
"""The limits in force."""


@dataclass(frozen=True)
class PatchPairs:
    """Pairs of an input and a mean patch that explain a convolution's gradient, `inputs` (N, C * H * W) of them.

    `heights` (N,) is how much of the seen mean each pair's mean patch makes: 1 for an image's own.
    """

    call: ConvolutionCall
    inputs: Tensor
    heights: Tensor


def patch_pairs(
    call: ConvolutionCall,
    rows: Tensor,
    weight: Tensor,
    mean: Tensor,
    images: int,
    limits: BatchLimits = BATCH_LIMITS,
) -> PatchPairs | None:
    """`images` independent pairs that explain the gradient `rows` (O, ...) of `weight`, whose outputs have `mean` (O,).

    None where the rows do not span the patches less one mean, or where more pairs explain them.
    """
    span = _span(call, rows, images, limits)
    if span is None:
        return None
    kernel, seen = exact(weight.flatten(1), _PURPOSE), exact(mean, _PURPOSE)
    apply, patch = _outside(call, span), span.shape[1]
    # Of the mean patch only what is at right angles to the span is told; no output may say anything of the rest.
    free = torch.linalg.qr(kernel @ span.mT, mode="complete").Q[:, len(span) :]
    wanted, ahead = free.mT @ seen, free.mT @ kernel
    # Any starts do; drawn anew for each layer, they leave the attack's own draws alone.
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(images + 1):
        start = torch.randn(call.inputs.numel() + patch, generator=generator, dtype=torch.float64)
        start[-patch:] -= span.mT @ (span @ start[-patch:])
        step = solve_definite(apply, apply(start), turns=limits.turns, converged=limits.converged)
        found.append(start - step)
    pairs = torch.stack(found)
    heights = pairs[:, -patch:] @ (ahead.mT @ wanted) / wanted.square().sum().clamp_min(TINY)
    both = torch.cat([pairs[:, :-patch], heights[:, None]], 1)
    sizes = torch.linalg.svdvals(both)
    if float(sizes[images]) > limits.more * float(sizes[images - 1]):
        return None
    return PatchPairs(call, pairs[:, :-patch], heights)


def explains_mean(
    call: ConvolutionCall, weight: Tensor, mean: Tensor, inputs: Tensor, limits: BatchLimits = BATCH_LIMITS
) -> bool:
    """Whether `inputs` (B, C * H * W) of a batch have the outputs' `mean` (O,) that BatchNorm saw."""
    kernel, seen = exact(weight.flatten(1), _PURPOSE), exact(mean, _PURPOSE)
    patches = torch.cat([call.patches(each.view(tuple(call.inputs))) for each in inputs.double()], 1)
    made = kernel @ patches.mean(1)
    return bool((made - seen).norm() <= limits.missed * seen.norm())


def in_front(
    call: ConvolutionCall,
    rows: Tensor,
    weight: Tensor,
    wanted: Tensor,
    on: Tensor,
    images: int,
    limits: BatchLimits = BATCH_LIMITS,
) -> Tensor | None:
    """The inputs (B, C * H * W) of a convolution whose outputs `wanted` (B, O, H', W') are known where `on` is 1.

    The others are known to be no more than a ReLU passes. With the rows of the gradient, which alone may leave more
    than one input: a layer with a stride has those that are shifted. None where outputs or rows are not explained.
    """
    span = _span(call, rows, images, limits)
    if span is None:
        return None
    kernel, outside = exact(weight.flatten(1), _PURPOSE), _outside(call, span)
    patch, shape = span.shape[1], tuple(call.inputs)

    def outputs(pair: Tensor) -> Tensor:
        return kernel @ call.patches(pair[:-patch].view(shape))

    answers = []
    both = (exact(each.flatten(2), _PURPOSE) for each in (wanted, on))
    for target, mask in zip(*both, strict=True):

        def apply(pair: Tensor, mask: Tensor = mask) -> Tensor:
            found = outside(pair)
            found[:-patch] += call.folded(kernel.mT @ (mask * outputs(pair))).flatten()
            return found

        known = mask * target
        right = torch.cat([call.folded(kernel.mT @ known).flatten(), known.new_zeros(patch)])
        pair = solve_definite(apply, right, turns=limits.turns, converged=limits.converged)
        missed = (mask * outputs(pair) - known).norm() / known.norm().clamp_min(TINY)
        if float(missed) > limits.chained:
            return None
        answers.append(pair[:-patch])
    return torch.stack(answers)


def in_order(made: Tensor, inputs: Tensor) -> Tensor:
    """`inputs` (B, N) of a layer in the order of the images (B, N) whose normalised outputs in front of it are `made`.

    Each goes to the output that it looks most like, beyond what all images have in common.
    """
    ours, theirs = (functional.normalize(each - each.mean(0), dim=1) for each in (made, inputs))
    _, places = linear_sum_assignment((-(ours @ theirs.mT)).numpy())
    return inputs[torch.from_numpy(places)]


def _span(call: ConvolutionCall, rows: Tensor, images: int, limits: BatchLimits) -> Tensor | None:
    """An orthonormal basis (P, I) of what the rows span; None where it is not that of all patches less their mean."""
    gradient = exact(rows.flatten(1), _PURPOSE)
    count = call.positions * images - 1
    if min(gradient.shape) <= count:
        return None
    _, sizes, directions = torch.linalg.svd(gradient, full_matrices=False)
    if not float(sizes[count]) <= limits.gap * float(sizes[count - 1]):
        return None
    basis: Tensor = directions[:count].contiguous()
    return basis


def _outside(call: ConvolutionCall, span: Tensor) -> Operator:
    """What a pair, input and mean patch as one vector, leaves outside the span, and back: a semidefinite map.

    The part of the mean patch that lies in the span leaves nothing.
    """
    patch, shape = span.shape[1], tuple(call.inputs)

    def apply(pair: Tensor) -> Tensor:
        patches = call.patches(pair[:-patch].view(shape)) - pair[-patch:, None]
        left = patches - span.mT @ (span @ patches)
        return torch.cat([call.folded(left).flatten(), -left.sum(1)])

    return apply


def output_mean(call: ConvolutionCall, means: Tensors, state: ModelState) -> Tensor | None:
    """What BatchNorm saw as the mean (O,) of a convolution's outputs, its bias taken out; None where it saw nothing."""
    seen = None if call.normalised is None else means.get(call.normalised)
    bias = state.parameters.get(f"{call.name}.bias")
    return seen if seen is None or bias is None else seen - bias.detach()


def normalised_outputs(call: ConvolutionCall, state: ModelState, inputs: Tensor, eps: float) -> Tensor:
    """What BatchNorm behind a convolution makes of `inputs` (B, C * H * W), (B, O, H', W') in float64."""
    module, name = call.module, f"{call.normalised}."
    parameters = {key: value.detach().double() for key, value in state.parameters.items()}
    made = functional.conv2d(
        inputs.double().view(-1, *call.inputs),
        parameters[f"{call.name}.weight"],
        parameters.get(f"{call.name}.bias"),
        cast("tuple[int, int]", module.stride),
        cast("tuple[int, int]", module.padding),
        module.dilation,
    )
    return functional.batch_norm(
        made,
        state.buffers[f"{name}running_mean"].double(),
        state.buffers[f"{name}running_var"].double(),
        parameters[f"{name}weight"],
        parameters[f"{name}bias"],
        False,
        0.0,
        eps,
    )
