"""Transforms of weights that stay what they are, computed once and kept as long as the weight is there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from attack_core.gradients.kernels.winograd import transformed, turned


@dataclass
class _Kept:
    """A weight's transforms, forwards and backwards, as they were at `version` of it."""

    version: int
    forwards: Tensor | None = None
    backwards: Tensor | None = None


@lru_cache(maxsize=1)
def _known() -> WeakIdKeyDictionary:
    """What is kept, by weight."""
    return WeakIdKeyDictionary()


def keep_transforms_of(weight: Tensor) -> None:
    """Let this process keep what it computes of a weight (O, I, 3, 3) that many convolutions will be asked with."""
    if weight not in _known():
        _known()[weight] = _Kept(weight._version)


def is_kept(weight: Tensor) -> bool:
    """Whether `transforms_of` this weight are kept."""
    return weight in _known()


def transforms_of(weight: Tensor, *, back: bool = False) -> Tensor:
    """The 36 matrices of a weight (O, I, 3, 3): (36, I, O), or (36, O, I) of the way `back` from errors to images."""
    kept: _Kept | None = _known().get(weight)
    if kept is None:
        return transformed(turned(weight) if back else weight)
    if kept.version != weight._version:
        kept.version, kept.forwards, kept.backwards = weight._version, None, None
    if back:
        if kept.backwards is None:
            kept.backwards = transformed(turned(weight.detach()))
        return kept.backwards
    if kept.forwards is None:
        kept.forwards = transformed(weight.detach())
    return kept.forwards
