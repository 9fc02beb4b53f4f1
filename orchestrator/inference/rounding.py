"""Whether the numbers of a signal were rounded: few distinct values, at even distances."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fl_core.base.types import Tensors


@dataclass(frozen=True, kw_only=True)
class RoundingLimits:
    """Where numbers are rounded ones."""

    least: int = 64
    """Tensors with fewer numbers tell nothing."""
    repeated: float = 4.0
    """Each distinct value must stand for so many numbers on average, or the steps are too fine to be seen."""
    uneven: float = 0.05
    """Values lie on even steps where each is within this share of a step, and float32's error, of one."""
    blurred: float = 0.2
    """Where float32 alone moves numbers by a larger share of a step, none can be seen."""
    most: int = 1_000_000
    """So many numbers of a tensor are looked at."""
    share: float = 0.9
    """So large a share of the numbers must lie in tensors on even steps."""
    same: float = 1.05
    """Sizes of tensors within this factor are one size, which an optimizer's step gives, too."""


ROUNDING_LIMITS = RoundingLimits()
"""The limits in force."""


@dataclass(frozen=True, kw_only=True)
class Rounded:
    """What numbers were rounded to: one of 2^`bits` values; with `signs` the sign and a size for each tensor."""

    bits: int
    signs: bool


@dataclass(frozen=True, kw_only=True)
class _Steps:
    """The even steps of a tensor: its largest absolute value over one step, twice, and 1 more."""

    levels: int
    largest: float
    zeros: bool


def seen_rounding(
    tensors: Tensors, errors: Mapping[str, float], limits: RoundingLimits = ROUNDING_LIMITS
) -> Rounded | None:
    """What the numbers were rounded to; None where that cannot be seen.

    `errors` say by how much float32 alone may have moved each tensor's numbers. Signs at one size for all tensors, or
    with zeros among them, are left to `orchestrator.inference.optimizer`: Adam's first step looks so.
    """
    found: list[_Steps] = []
    on_steps, numbers = 0, 0
    for name, tensor in tensors.items():
        if tensor.numel() < limits.least or not bool(tensor.any()):
            continue
        numbers += tensor.numel()
        looked = tensor.detach().flatten()[: limits.most].double().cpu()
        values = _distinct(looked, errors[name])
        if len(values) < 2 or limits.repeated * len(values) > len(looked):
            continue
        if errors[name] > limits.blurred * float(values.diff().min()):
            continue
        steps = _even(values, errors[name], limits)
        if steps is None:
            return None
        found.append(steps)
        on_steps += tensor.numel()
    if not found or on_steps < limits.share * numbers:
        return None
    levels = max(each.levels for each in found)
    if levels > 3:
        return Rounded(bits=math.ceil(math.log2(levels)), signs=False)
    sizes = [each.largest for each in found]
    if any(each.zeros for each in found) or max(sizes) <= limits.same * min(sizes):
        return None
    return Rounded(bits=1, signs=True)


def _distinct(tensor: Tensor, error: float) -> Tensor:
    """The distinct values of numbers (N,), ascending; those that an `error` each may part are one, their mean."""
    values = tensor.sort().values
    group = torch.zeros(len(values), dtype=torch.int64)
    group[1:] = (values.diff() > 2 * error).long().cumsum(0)
    count = int(group[-1]) + 1
    sums = torch.zeros(count, dtype=torch.float64).index_add(0, group, values)
    return sums / torch.bincount(group, minlength=count)


def _even(values: Tensor, error: float, limits: RoundingLimits) -> _Steps | None:
    """The even steps that distinct `values` lie on; None where they lie on none."""
    span, step = float(values[-1] - values[0]), float(values.diff().min())
    # The whole span tells the step more exactly than the smallest gap.
    step = span / round(span / step)
    places = (values - values[0]) / step
    if float((places - places.round()).abs().max()) > limits.uneven + error / step:
        return None
    largest = float(values.abs().max())
    return _Steps(
        levels=round(2 * largest / step) + 1,
        largest=largest,
        zeros=bool((values.abs() < limits.uneven * step).any()),
    )
