"""Simulated clients: the participants of a round in chunks, each trained in turn and reduced on the spot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from fl_core.base.types import ClientUpdate, ModelState
from fl_core.federation.aggregation import FedAvg, Reduction
from fl_core.federation.federation import Chunk, Federation
from fl_core.federation.hooks import ClientDefense, ClientState


@dataclass(frozen=True, kw_only=True)
class Reduced:
    """A finished chunk: its partial result and, where clients remember anything, what each of them does.

    `not_finite` counts what was clipped to zeros in its updates; see `ClientUpdate`.
    """

    partial: Any
    not_finite: int = 0
    memories: Mapping[int, ClientState] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ClientWork:
    """Everything that is needed to simulate any client of a federation: its data, its defense, its reduction."""

    federation: Federation
    defense: ClientDefense | None = None
    reduction: Reduction[Any] = field(default_factory=FedAvg)

    @property
    def is_stateful(self) -> bool:
        """Whether clients keep anything from one of their rounds to the next."""
        return self.federation.config.local.is_stateful or (
            self.defense is not None and self.defense.is_stateful
        )

    def reduce(self, state: ModelState, chunk: Chunk, memories: Mapping[int, ClientState]) -> Reduced:
        """Train the chunk's clients from `state`, one after another, and reduce what they release.

        One partial result and one client's update are alive at a time, however many clients there are. Where
        clients remember, `memories` holds what (absent: nothing yet). The state is moved to the federation's
        device; what comes back is on the CPU.
        """
        federation = self.federation
        state = state.to(federation.device)
        reduction = self.reduction if chunk.reduction is None else chunk.reduction
        partial = reduction.start(chunk.round, chunk.participants)
        kept: dict[int, ClientState] = {}
        not_finite = 0
        for client in chunk.clients:
            update, memory = self._released(state, chunk.round, client, memories.get(client))
            partial = reduction.add(partial, update)
            not_finite += update.not_finite
            # Not to be alive while the next client trains.
            del update
            if self.is_stateful:
                kept[client] = memory.to(torch.device("cpu"))
            del memory
        return Reduced(partial=partial, not_finite=not_finite, memories=kept)

    def _released(
        self, state: ModelState, round_number: int, client: int, memory: ClientState | None
    ) -> tuple[ClientUpdate, ClientState]:
        federation = self.federation
        released, memory = federation.client_update(
            state,
            client,
            federation.trained_batches(client, round_number),
            round_number=round_number,
            defense=self.defense,
            memory=memory.to(federation.device) if memory else None,
        )
        return released.to(torch.device("cpu")), memory


class Simulator(Protocol):
    """Where a federation's clients are simulated."""

    @property
    def work(self) -> ClientWork:
        """Whose clients they are."""

    def partials(self, state: ModelState, chunks: Sequence[Chunk]) -> Iterator[tuple[Any, int]]:
        """The partial result of each of a round's `chunks`, in their order, and its `Reduced.not_finite`."""

    def correct(self, state: ModelState, indices: Sequence[int]) -> int:
        """How many of the data set's images at `indices` are classified right."""


class InProcess:
    """All clients here, one after another; a `Simulator`."""

    def __init__(self, work: ClientWork) -> None:
        self.work = work
        self._memories: dict[int, ClientState] = {}

    def partials(self, state: ModelState, chunks: Sequence[Chunk]) -> Iterator[tuple[Any, int]]:
        """See `Simulator.partials`; what a client keeps waits here for its next round."""
        for chunk in chunks:
            yield self._partial(state, chunk)

    def correct(self, state: ModelState, indices: Sequence[int]) -> int:
        """See `Simulator.correct`."""
        return self.work.federation.correct(state, indices)

    def _partial(self, state: ModelState, chunk: Chunk) -> tuple[Any, int]:
        """In a function of its own, so that nothing here holds a partial while the next one grows."""
        reduced = self.work.reduce(state, chunk, self._memories)
        self._memories |= reduced.memories
        return reduced.partial, reduced.not_finite
