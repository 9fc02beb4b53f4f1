"""The record of a captured round: the weights, and what the clients released."""

from __future__ import annotations

from dataclasses import dataclass

from fl_core.base.types import ClientUpdate, EarlierUpdate, ModelState, OpenedSum, Protection, Signal, Tensors
from fl_core.models.config import ModelConfig
from fl_core.threat.facts import Fact


@dataclass(frozen=True, kw_only=True)
class RoundRecord:
    """One capture: the exact weights that the signal was computed at, and what the clients released.

    `updates` has one entry for an individual signal and one for each participant for `agg_update`. Under a secure sum
    (`aggregate`) it has one for each client in the sum for every signal, the victim's first, rounded as they were sent:
    what the server received of them is the opened sum alone.
    `facts` is what the defenses say of themselves; the threat model decides who learns it. `earlier` holds the
    client's updates of earlier rounds, oldest first, where its momentum carries them into this one.
    Of a mean that is not weighted by examples, `shares` holds each update's weight. `published` is what the server
    adds to the weights, where that is not the mean alone. `later` holds the records of the same images in the rounds
    that were watched after this one, oldest first, each at its own weights.
    """

    signal: Signal
    round: int
    model: ModelConfig
    state: ModelState
    batch_size: int
    updates: tuple[ClientUpdate, ...]
    facts: tuple[Fact, ...] = ()
    earlier: tuple[EarlierUpdate, ...] = ()
    aggregate: OpenedSum | None = None
    shares: tuple[float, ...] = ()
    published: Tensors | None = None
    later: tuple[RoundRecord, ...] = ()

    @property
    def protection(self) -> Protection | None:
        """What keeps single updates from the server; None where nothing does."""
        return None if self.aggregate is None else self.aggregate.protection
