"""Transforms of weights that stay what they are, computed once and kept as long as the weight is there."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from attack_core.gradients.kernels.winograd import transformed, turned


@dataclass
class _Kept:
    """A weight's transforms as they were at `version` of it, by whether they are those of the way back."""

    version: int
    transforms: dict[bool, Tensor] = field(default_factory=dict)


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
        return _computed(weight, back=back)
    if kept.version != weight._version:
        kept.version, kept.transforms = weight._version, {}
    if back not in kept.transforms:
        kept.transforms[back] = _computed(weight.detach(), back=back)
    return kept.transforms[back]


def _computed(weight: Tensor, *, back: bool) -> Tensor:
    return transformed(turned(weight) if back else weight)
