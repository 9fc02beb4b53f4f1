"""Whether small numbers of a signal were withheld: zeros, and a least size at which what was sent begins.

Zeros alone tell nothing: units that are off and dark pixels leave whole rows and columns of them, whereas pruning
leaves zeros between other numbers. Sizes of a gradient's numbers go down to nothing, whereas those that pruning leaves
begin where it cuts. One bright image makes a gradient whose sizes begin somewhere too, so both have to be seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fl_core.base.types import Tensors


@dataclass(frozen=True, kw_only=True)
class PruningLimits:
    """Where sizes begin at a cut."""

    least: int = 50
    """So many distinct sizes must have been sent, of the whole signal or of a tensor."""
    looked: int = 4096
    """So many of the smallest sizes of each tensor are looked at."""
    rank: int = 20
    """The smallest size is compared with the one of this rank."""
    cut: float = 0.5
    """Sizes begin at a cut where the smallest is at least this share of that one: of sizes that are spread evenly down
    to 0 it is so once in 2^19 times."""
    small: float = 0.75
    """So large a share of what was sent is nearer to the smallest size than to the largest: of Adam's steps few are."""
    scattered: float = 0.005
    """So large a share of a matrix's numbers must be 0 beside whole rows and columns of zeros."""
    alike: float = 0.02
    """Each tensor was cut by itself where all keep the same share of their numbers, to this share and one number."""


PRUNING_LIMITS = PruningLimits()
"""The limits in force."""


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """What was withheld: the share `zeros` of the numbers, in all of the signal together or in each tensor."""

    zeros: float
    scope: Literal["all", "tensor"]


def seen_pruning(tensors: Tensors, limits: PruningLimits = PRUNING_LIMITS) -> Pruned | None:
    """What was withheld of a signal; None where its zeros may be the gradient's own."""
    shares = [(int((value != 0).sum()), value.numel()) for value in tensors.values()]
    kept, numbers = (sum(each) for each in zip(*shares, strict=True))
    if kept == numbers:
        return None
    if max((_scattered(value) for value in tensors.values()), default=0.0) < limits.scattered:
        return None
    smallest = [_smallest(value, limits) for value in tensors.values()]
    least = min((float(sizes[0]) for sizes in smallest if len(sizes)), default=0.0)
    middle = (least + max(float(value.abs().max()) for value in tensors.values())) / 2
    small = sum(int(((value != 0) & (value.abs() < middle)).sum()) for value in tensors.values())
    if small < limits.small * kept:
        return None
    if _each_alike(shares, limits):
        large = [sizes for sizes in smallest if len(sizes) >= limits.least]
        cut = bool(large) and all(_begins_at_a_cut(sizes, limits) for sizes in large)
        return Pruned(zeros=1 - kept / numbers, scope="tensor") if cut else None
    if _begins_at_a_cut(torch.cat(smallest), limits):
        return Pruned(zeros=1 - kept / numbers, scope="all")
    return None


def _scattered(tensor: Tensor) -> float:
    """The share of zeros in a matrix without the rows and columns that hold nothing else; 0 for a vector."""
    if tensor.dim() < 2:
        return 0.0
    sent = tensor.detach().flatten(1) != 0
    inside = sent[sent.any(1)][:, sent.any(0)]
    return float((~inside).float().mean()) if inside.numel() else 0.0


def _smallest(tensor: Tensor, limits: PruningLimits) -> Tensor:
    """The smallest distinct sizes of a tensor, without 0, on the CPU."""
    sizes = tensor.detach().abs().flatten()
    sizes = torch.where(sizes > 0, sizes, torch.inf)
    found = sizes.topk(min(limits.looked, len(sizes)), largest=False).values
    distinct: Tensor = found[found.isfinite()].unique()
    return distinct.cpu()


def _begins_at_a_cut(sizes: Tensor, limits: PruningLimits) -> bool:
    order = sizes.unique()
    return len(order) >= limits.least and bool(order[0] >= limits.cut * order[limits.rank - 1])


def _each_alike(shares: list[tuple[int, int]], limits: PruningLimits) -> bool:
    """Whether the same share of each tensor was sent; each has at least one number sent where pruning is by tensor."""
    kept, numbers = (sum(each) for each in zip(*shares, strict=True))
    share = kept / numbers
    return all(abs(sent - share * size) <= 1 + limits.alike * share * size for sent, size in shares)
