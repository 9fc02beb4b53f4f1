"""How a round's released updates become one change of the model, an update at a time.

A reduction never needs all updates at once: a worker holds one partial result and one update, and partials of
several workers are merged. FedAvg's weighted mean is the default. A defense of the aggregate (encryption, masks,
noise on the sum) is another reduction: it decides what a partial is and what of it can be read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

from fl_core.base.types import ClientUpdate, Tensors

if TYPE_CHECKING:
    from torch import Tensor

P = TypeVar("P")


@dataclass(frozen=True, kw_only=True)
class Change:
    """What a round adds to the global weights and, as floats, to the buffers."""

    tensors: Tensors
    buffers: Tensors


class Reduction(Protocol[P]):
    """Partial results, how they grow, and what comes out; a partial has to survive being sent to another process.

    A round begins with `prepare`. What it returns stays with whoever finishes the round; `for_clients` gives the part
    of it that goes to where clients are simulated.
    """

    def prepare(self, round_number: int, examples: Mapping[int, int]) -> Reduction[P]:
        """The reduction of one round of these clients, in their order, with the images that each trains on.

        Where clients exchange keys, they do it here.
        """

    def for_clients(self, clients: Sequence[int]) -> Reduction[P]:
        """What of a prepared round has to be known where `clients` are simulated: it starts, adds and merges."""

    def start(self, round_number: int, participants: Sequence[int]) -> P:
        """The partial that holds no update, in a round with these `participants`, in their order."""

    def add(self, partial: P, update: ClientUpdate) -> P:
        """The partial with one more released update, whose tensors are on the CPU; `partial` may be used up."""

    def merge(self, left: P, right: P) -> P:
        """One partial of two that share no update, those of `left` first; both may be used up."""

    def finish(self, partial: P) -> Change:
        """The round's change, from a partial that holds the updates of all participants."""


@dataclass(kw_only=True)
class WeightedSum:
    """Weighted sums of tensors and of buffers, and the sum of the weights."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    buffers: dict[str, Tensor] = field(default_factory=dict)
    weight: float = 0.0


class Unprepared:
    """Base of reductions that are the same in every round and for all clients: nothing is made for a round."""

    def prepare(self, round_number: int, examples: Mapping[int, int]) -> Self:  # noqa: ARG002 - any round's
        """See `Reduction.prepare`."""
        return self

    def for_clients(self, clients: Sequence[int]) -> Self:  # noqa: ARG002 - anybody's
        """See `Reduction.for_clients`."""
        return self


@dataclass(frozen=True, kw_only=True)
class FedAvg(Unprepared):
    """The mean of the updates, weighted by examples (McMahan et al., AISTATS 2017); a `Reduction`."""

    def weight(self, examples: int) -> float:
        """The weight of an update that stands for so many images, up to a factor common to all."""
        return float(examples)

    def divisor(self, total: float) -> float:
        """What the weighted sum is divided by, where the weights in it add up to `total`."""
        return total

    def published(self, change: Change) -> Change:
        """What the server adds to the weights, where the mean that it has found is `change`."""
        return change

    def start(self, round_number: int, participants: Sequence[int]) -> WeightedSum:  # noqa: ARG002 - any round's
        """See `Reduction.start`."""
        return WeightedSum()

    def add(self, partial: WeightedSum, update: ClientUpdate) -> WeightedSum:
        """See `Reduction.add`."""
        weight = self.weight(update.examples)
        _accumulate(partial.tensors, update.tensors, weight)
        _accumulate(partial.buffers, update.buffers, weight)
        partial.weight += weight
        return partial

    def merge(self, left: WeightedSum, right: WeightedSum) -> WeightedSum:
        """See `Reduction.merge`."""
        if not left.weight or not right.weight:
            return left if left.weight else right
        return WeightedSum(
            tensors={name: value + right.tensors[name] for name, value in left.tensors.items()},
            buffers={name: value + right.buffers[name] for name, value in left.buffers.items()},
            weight=left.weight + right.weight,
        )

    def finish(self, partial: WeightedSum) -> Change:
        """See `Reduction.finish`; raises `ValueError` where no update was added."""
        return self.published(self.mean(partial))

    def mean(self, partial: WeightedSum) -> Change:
        """The mean itself, before anything else is done to it; raises `ValueError` where no update was added."""
        if not partial.weight:
            raise ValueError("The mean of no update is not defined.")
        divisor = self.divisor(partial.weight)
        return Change(
            tensors={name: value / divisor for name, value in partial.tensors.items()},
            buffers={name: value / divisor for name, value in partial.buffers.items()},
        )


@dataclass(frozen=True, kw_only=True)
class FixedMean(FedAvg):
    """The sum of the updates over the number of clients that were `planned` for a round (McMahan et al., ICLR 2018).

    Weights and divisor say nothing of what any client holds, nor of who is missing: one client's data moves the result
    by its own update over `planned`, and no further.
    """

    planned: float

    def weight(self, examples: int) -> float:  # noqa: ARG002 - all weigh the same
        """See `FedAvg.weight`."""
        return 1.0

    def divisor(self, total: float) -> float:  # noqa: ARG002 - who is missing counts as zero
        """See `FedAvg.divisor`."""
        return self.planned


def mean_change(updates: Iterable[ClientUpdate], reduction: FedAvg | None = None) -> Change:
    """The mean of `updates` (at least one) as the server finds it: `reduction`'s, FedAvg's by default."""
    reduction = reduction or FedAvg()
    partial = reduction.start(0, ())
    for update in updates:
        partial = reduction.add(partial, update)
    return reduction.mean(partial)


def _accumulate(sums: dict[str, Tensor], values: Tensors, weight: float) -> None:
    for name, value in values.items():
        # Counters (int64 buffers) have a mean too.
        value = value if value.is_floating_point() else value.float()
        if name in sums:
            sums[name].add_(value, alpha=weight)
        else:
            sums[name] = value * weight
