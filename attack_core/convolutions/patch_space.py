"""One image's input of a convolution, exactly, from the row space of its weight's gradient.

The gradient of a convolution's weight is the sum over positions of error times patch. Where a layer has at least as
many output channels as positions, and the errors are independent, the gradient's rows span exactly the patches. Patches
overlap, so of all inputs whose patches lie in that span as a rule only one is left, up to its scale: a linear problem
for conjugate gradients. The scale follows from the gradient of the bias, or of the BatchNorm behind, which is the sum
of the same errors.

That deep layers hold far more of an image than the fully connected one is what this adds to Phong et al. 2018; that the
gradient's row space is that of the inputs is also what SPEAR (Dimitrov et al. 2024, arXiv:2403.03945) uses, and Zhu and
Blaschko 2021 (R-GAP, arXiv:2010.07733) solve convolutions one after the other where their equations suffice.

The algebra runs in float64 on the CPU: it is small, and some accelerators have no float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attack_core.base.conjugate_gradients import Operator, solve_definite
from attack_core.convolutions.calls import ConvolutionCall
from fl_core.base.decibels import TINY
from fl_core.base.device import exact
from fl_core.base.types import Tensors

_PURPOSE = "solving for a convolution's input"


@dataclass(frozen=True, kw_only=True)
class PatchLimits:
    """When a convolution's input is taken as found."""

    rounding: float = 1e-6
    """Singular values below this share of the largest are what float32 leaves of 0.

    Those of rounding were at 3e-8 of the largest, right ones at 1e-5 and more (CIFAR-10 picture of the train split,
    four networks at initial weights).
    """
    gap: float = 1e-2
    """How large, relative to the last singular value of the patches, the next one may be.

    It was below 1e-4 wherever there was one. Noise on the signal, or weights that are used twice, leave no such gap.
    """
    zero: float = 1e-4
    """Inputs below this share of the largest are 0."""
    unlike: float = 1e-3
    """How far, relatively, the answers from two starts may be apart: where more than one input fits, they differ."""
    missed: float = 1e-2
    """How much of the sum of errors, relatively, the input at its best scale may leave."""
    turns: int = 400
    """Conjugate gradients: steps at most. Five to 241 were enough on the networks above."""
    converged: float = 1e-8
    """Conjugate gradients: the relative residual at which they end."""


PATCH_LIMITS = PatchLimits()
"""The limits in force."""


@dataclass(frozen=True)
class ConvolutionInput:
    """What layer `layer` sees of the image, `values` (1, C, H, W), how far two ways to find it are apart, and how many
    of the numbers are not 0."""

    layer: str
    values: Tensor
    error: float
    known: int


def convolution_inputs(
    calls: Sequence[ConvolutionCall],
    gradients: Tensors,
    *,
    enough: float,
    limits: PatchLimits = PATCH_LIMITS,
) -> list[ConvolutionInput]:
    """The inputs that `gradients` (by parameter name) of one image determine, from the first layer on.

    It ends where `enough` of their numbers are not 0: what lies behind them follows from them.
    """
    found: list[ConvolutionInput] = []
    known = 0
    for call in calls:
        rows, total = gradients.get(f"{call.name}.weight"), _summed_errors(call, gradients)
        if rows is None or total is None or call.positions > len(rows):
            continue
        one = input_from_rows(call, rows, total, limits)
        if one is None:
            continue
        found.append(one)
        known += one.known
        if known >= enough:
            break
    return found


def input_from_rows(
    call: ConvolutionCall,
    rows: Tensor,
    total: Tensor,
    limits: PatchLimits = PATCH_LIMITS,
) -> ConvolutionInput | None:
    """The input of one convolution from its weight's gradient `rows` (O, ...) and the sum of errors `total` (O,).

    None where the rows span too little, more than one input fits, or the sum of errors contradicts it.
    """
    device = rows.device
    gradient, total = exact(rows.flatten(1), _PURPOSE), exact(total, _PURPOSE)
    _, sizes, directions = torch.linalg.svd(gradient, full_matrices=False)
    count = call.positions
    if len(sizes) < count or float(sizes[count - 1]) <= limits.rounding * float(sizes[0]):
        return None
    span = directions[:count]

    def outside(inputs: Tensor) -> Tensor:
        patches = call.patches(inputs)
        return call.folded(patches - span.mT @ (span @ patches))

    # Any two starts do; drawn anew for each layer, they leave the attack's own draws alone.
    generator = torch.Generator().manual_seed(0)

    def answer() -> Tensor:
        start = torch.rand(tuple(call.inputs), generator=generator, dtype=torch.float64)
        return _least(outside, start / start.norm(), limits)

    values = answer()
    # G = D^T X for patches X of the unit input, at an unknown scale of D; the errors D add up to `total`.
    summed = torch.linalg.lstsq(call.patches(values), gradient.mT).solution.sum(0)
    scale = float((summed * total).sum() / total.square().sum().clamp_min(TINY))
    if float((summed - scale * total).norm()) > limits.missed * float(summed.norm()):
        return None
    # Noise ends above: the other start is for what may be an input.
    other = answer()
    apart = (other - values * float((values * other).sum())).norm()
    if float(apart) > limits.unlike:
        return None
    values = scale * values
    known = int((values.abs() > limits.zero * values.abs().max()).sum())
    return ConvolutionInput(call.name, values[None].float().to(device), float(apart), known)


def _least(operator: Operator, start: Tensor, limits: PatchLimits) -> Tensor:
    """The unit input that a positive semidefinite `operator` makes least of, among those with a part along `start`.

    Conjugate gradients for the part at right angles to the unit tensor `start`.
    """

    def across(values: Tensor) -> Tensor:
        return values - start * (start * values).sum()

    found = start + solve_definite(
        lambda step: across(operator(step)),
        -across(operator(start)),
        turns=limits.turns,
        converged=limits.converged,
    )
    unit: Tensor = found / found.norm()
    return unit


def _summed_errors(call: ConvolutionCall, gradients: Tensors) -> Tensor | None:
    """The sum (O,) of the errors at the convolution's output; None where no parameter's gradient is that."""
    own = gradients.get(f"{call.name}.bias")
    if own is not None:
        return own
    if call.normalised is None or call.factor is None:
        return None
    behind = gradients.get(f"{call.normalised}.bias")
    return None if behind is None else behind * call.factor
