"""Simulated clients: the participants of a round in chunks, each trained in turn and reduced on the spot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch

from fl_core.reduction import FedAvg, Reduction
from fl_core.types import ClientUpdate, ModelState, Tensors

if TYPE_CHECKING:
    from fl_core.server import Federation, Release


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Some of a round's participants, in the order in which their updates are reduced."""

    round: int
    participants: tuple[int, ...]
    clients: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Reduced:
    """A finished chunk: its partial result and, where momentum persists, each client's momentum buffers."""

    partial: Any
    velocities: Mapping[int, Tensors] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ClientWork:
    """Everything that is needed to simulate any client of a federation: its data, its defense, its reduction."""

    federation: Federation
    release: Release | None = None
    reduction: Reduction[Any] = field(default_factory=FedAvg)

    def reduce(self, state: ModelState, chunk: Chunk, velocities: Mapping[int, Tensors]) -> Reduced:
        """Train the chunk's clients from `state`, one after another, and reduce what they release.

        One partial result and one client's update are alive at a time, however many clients there are. Where
        momentum persists, `velocities` holds the buffers that each client starts with (absent: zero). The state is
        moved to the federation's device; what comes back is on the CPU.
        """
        federation = self.federation
        remembers = federation.config.local.remembers
        state = state.to(federation.device)
        partial = self.reduction.start(chunk.round, chunk.participants)
        kept: dict[int, Tensors] = {}
        for client in chunk.clients:
            update, velocity = self._released(state, chunk.round, client, velocities.get(client))
            partial = self.reduction.add(partial, update)
            # Not to be alive while the next client trains.
            del update
            if remembers:
                kept[client] = {name: value.cpu() for name, value in velocity.items()}
            del velocity
        return Reduced(partial=partial, velocities=kept)

    def _released(
        self, state: ModelState, round_number: int, client: int, velocity: Tensors | None
    ) -> tuple[ClientUpdate, Tensors]:
        federation = self.federation
        batches = federation.trained_batches(client, round_number)
        if velocity is not None:
            velocity = {name: value.to(federation.device) for name, value in velocity.items()}
        update, velocity = federation.client_update(state, client, batches, velocity=velocity)
        released = self.release(update, round_number) if self.release else update
        return released.to(torch.device("cpu")), velocity


class Simulator(Protocol):
    """Where a federation's clients are simulated."""

    @property
    def work(self) -> ClientWork:
        """Whose clients they are."""

    def partials(self, state: ModelState, chunks: Sequence[Chunk]) -> Iterator[Any]:
        """The partial result of each of a round's `chunks`, in their order."""

    def correct(self, state: ModelState, indices: Sequence[int]) -> int:
        """How many of the data set's images at `indices` are classified right."""


class InProcess:
    """All clients here, one after another; a `Simulator`."""

    def __init__(self, work: ClientWork) -> None:
        self.work = work
        self._velocities: dict[int, Tensors] = {}

    def partials(self, state: ModelState, chunks: Sequence[Chunk]) -> Iterator[Any]:
        """See `Simulator.partials`; persistent momentum waits here for its client's next round."""
        for chunk in chunks:
            yield self._partial(state, chunk)

    def correct(self, state: ModelState, indices: Sequence[int]) -> int:
        """See `Simulator.correct`."""
        return self.work.federation.correct(state, indices)

    def _partial(self, state: ModelState, chunk: Chunk) -> Any:
        """In a function of its own, so that nothing here holds a partial while the next one grows."""
        reduced = self.work.reduce(state, chunk, self._velocities)
        self._velocities |= reduced.velocities
        return reduced.partial
