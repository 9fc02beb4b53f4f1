"""Which defense is in force on a signal, as far as its numbers tell."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

from torch import Tensor

from defenses.chain import AnyDefense
from defenses.compression.compression import Prune, Quantise, SignOnly
from defenses.compression.soteria import Soteria
from defenses.mechanism.noise import ClipOnly
from fl_core.base.decibels import energy
from fl_core.base.types import Tensors
from orchestrator.inference.pruning import seen_pruning
from orchestrator.inference.rounding import seen_rounding
from orchestrator.inference.withheld import seen_cut_columns, seen_unsent
from orchestrator.library.network import Subject

_FLOAT = 2.0**-24
"""Float32 rounds a number by at most this share of it."""
_ROUND = 3e-6
"""A norm is a round number where one with two digits is this near, relatively: one norm in 4,000 is so by chance."""
_NAMED = 3
"""So many parameters are named."""


@dataclass(frozen=True, kw_only=True)
class Signal:
    """The numbers of a signal, at the weights of the `network`.

    `moved` says that they are a difference between two sets of weights, which float32 rounded. `pictures` are public
    ones (N, C, H, W) in [-1, 1]. `lr` is the client's learning rate where the numbers are one step's and it is known.
    """

    network: Subject
    tensors: Tensors
    moved: bool
    pictures: Tensor
    lr: float | None

    @property
    def errors(self) -> Mapping[str, float]:
        """By how much float32 alone may have moved each tensor's numbers."""
        held = self.network.state.parameters if self.moved else self.tensors
        return {
            name: _FLOAT * float(max(held[name].abs().max(), value.abs().max()))
            for name, value in self.tensors.items()
            if value.numel()
        }


@dataclass(frozen=True, kw_only=True)
class SeenDefense:
    """A defense that the numbers show: in words, with the reason, and as an attacker and simulated clients take it.

    `keeps_rank` says whether the rank of a layer still tells how many images there are.
    """

    words: str
    why: str
    defense: AnyDefense
    keeps_rank: bool = False


def seen_defense(signal: Signal) -> SeenDefense | None:
    """The defense that the numbers show; None where they may be those of a client without one.

    What leaves nothing to see is not found: a bound that is not reached or no round number, pruning of few numbers,
    steps too fine for their tensors.
    """
    kinds: tuple[Callable[[Signal], SeenDefense | None], ...] = (
        _rounded,
        _pruned,
        _columns,
        _unsent,
        _clipped,
    )
    return next((found for kind in kinds if (found := kind(signal)) is not None), None)


def _rounded(signal: Signal) -> SeenDefense | None:
    found = seen_rounding(signal.tensors, signal.errors)
    if found is None:
        return None
    if found.signs:
        return SeenDefense(
            words="signs only",
            why="the numbers of each tensor have one size of its own, without a 0",
            defense=SignOnly(),
        )
    bits = found.bits
    return SeenDefense(
        words=f"rounded to {bits} bits",
        why=f"the numbers of each tensor lie on at most {2**bits:,} even steps",
        defense=Quantise(bits=bits),
        keeps_rank=True,
    )


def _pruned(signal: Signal) -> SeenDefense | None:
    found = seen_pruning(signal.tensors)
    if found is None:
        return None
    where = "the others" if found.scope == "all" else "the others of each tensor"
    return SeenDefense(
        words=f"pruned: {100 * found.zeros:.3g}% of the numbers are exactly 0",
        why=f"the sizes of {where} begin at a cut, where those of a gradient go down to nothing",
        defense=Prune(ratio=found.zeros, scope=found.scope),
    )


def _columns(signal: Signal) -> SeenDefense | None:
    found = seen_cut_columns(signal.network, signal.tensors, signal.pictures)
    if found is None:
        return None
    return SeenDefense(
        words=f"representation pruned: {100 * found.share:.3g}% of the columns of {found.name} are 0",
        why=f"public pictures leave at most {100 * found.usual:.3g}%",
        defense=Soteria(ratio=found.share, layer=found.layer),
    )


def _unsent(signal: Signal) -> SeenDefense | None:
    found = seen_unsent(signal.network, signal.tensors, signal.pictures)
    if found is None:
        return None
    rest = len(found.names) - _NAMED
    names = ", ".join(found.names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")
    return SeenDefense(
        words=f"zeros alone in {names}",
        why="public pictures move them: they were not trained or not sent",
        # The union lists what a sweep file can spell, which this is not.
        defense=cast("AnyDefense", found),
        keeps_rank=True,
    )


def _clipped(signal: Signal) -> SeenDefense | None:
    norm = math.sqrt(sum(energy(value) for value in signal.tensors.values()))
    for scale, unit in ((1.0, ""), (signal.lr, " times the learning rate")):
        if scale is None or not (bound := _round_number(norm / scale)):
            continue
        return SeenDefense(
            words=f"clipped to an L2 norm of {bound:.2g}{unit}",
            why=f"the norm is this round number to {_ROUND:g} of it",
            defense=ClipOnly(max_norm=norm),
            keeps_rank=True,
        )
    return None


def _round_number(value: float) -> float | None:
    """The number with two digits that `value` is; None where it is none."""
    if not 0 < value < math.inf:
        return None
    nearest = float(f"{value:.1e}")
    return nearest if abs(value / nearest - 1) <= _ROUND else None
