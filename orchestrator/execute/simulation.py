"""Client simulation on an executor's workers: weights out once a round, one partial sum back for each chunk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from fl_core.base.types import ModelState
from fl_core.federation.accuracy import EVALUATION_BATCH
from fl_core.federation.federation import Chunk
from fl_core.federation.hooks import ClientState
from fl_core.federation.simulator import ClientWork, InProcess, Reduced, Simulator
from orchestrator.execute.execute import Executor

AHEAD = 2
"""Chunks that are out or waiting for their turn, for each worker: enough to keep it busy, and a bound on memory."""
EVALUATED = 4 * EVALUATION_BATCH
"""Images of one evaluation job; a multiple of the batch, so that batches are those of one process."""

_Job = tuple[Callable[..., Any], tuple[Any, ...]]


class PooledSimulator:
    """A federation's clients on all workers of an executor, which must have nothing else in flight; a `Simulator`.

    The federation goes to the workers once and the weights once a round. A chunk comes back as one partial result,
    and at most two for each worker are held, so memory does not grow with the number of clients. What clients
    remember is the exception: it waits in the executor's store, from where any worker gets them. A worker
    that dies costs its chunk, which the executor runs again.
    """

    def __init__(self, executor: Executor, work: ClientWork, *, threads: int) -> None:
        self.work = work
        self._executor, self._threads = executor, threads
        self._handle = executor.share(work)
        self._memories: dict[int, Any] = {}
        self._shared: tuple[ModelState, Any] | None = None

    def partials(self, state: ModelState, chunks: Sequence[Chunk]) -> Iterator[tuple[Any, int]]:
        """See `Simulator.partials`."""
        for reduced in self._in_order([self._chunk_job(state, chunk) for chunk in chunks]):
            yield self._kept(reduced)

    def correct(self, state: ModelState, indices: Sequence[int]) -> int:
        """See `Simulator.correct`."""
        common = (self._handle, self._state(state), self._threads)
        slices = [indices[start : start + EVALUATED] for start in range(0, len(indices), EVALUATED)]
        return sum(self._in_order([(_count, (*common, part)) for part in slices]))

    def _chunk_job(self, state: ModelState, chunk: Chunk) -> _Job:
        known = [client for client in chunk.clients if client in self._memories]
        memories = [self._memories[client] for client in known]
        return _reduce, (self._handle, self._state(state), self._threads, chunk, known, *memories)

    def _kept(self, reduced: Reduced) -> tuple[Any, int]:
        for client, memory in reduced.memories.items():
            self._memories[client] = self._executor.share(memory)
        return reduced.partial, reduced.not_finite

    def _state(self, state: ModelState) -> Any:
        """The handle on `state`, which is shared when it is first seen: evaluation and the next round use the same."""
        if self._shared is None or self._shared[0] is not state:
            self._shared = (state, self._executor.share(state))
        return self._shared[1]

    def _in_order(self, jobs: Sequence[_Job]) -> Iterator[Any]:
        """Results in the order of `jobs`, with a bounded number of them out or waiting; raises what a job raised."""
        arrived: dict[str, Any] = {}
        submitted = 0
        for wanted in range(len(jobs)):
            while submitted < min(len(jobs), wanted + AHEAD * self._executor.capacity):
                function, arguments = jobs[submitted]
                self._executor.submit(f"clients:{submitted}", function, *arguments)
                submitted += 1
            while f"clients:{wanted}" not in arrived:
                done = self._executor.next_done(1.0)
                if done is not None and done.error is not None:
                    # Whoever goes on after the error is not to take what is still out for an answer of its own.
                    self._discard(submitted - wanted - len(arrived) - 1)
                    raise done.error
                if done is not None:
                    arrived[done.key] = done.result
                del done
            yield arrived.pop(f"clients:{wanted}")

    def _discard(self, jobs: int) -> None:
        """Wait for so many jobs that are out, and forget how they ended."""
        while jobs:
            jobs -= self._executor.next_done(1.0) is not None


def simulate(work: ClientWork, executor: Callable[[], Executor], *, threads: int) -> Simulator:
    """Clients on the executor's workers where a round has several chunks; else here, and no executor is started."""
    if work.federation.config.chunks_per_round == 1:
        return InProcess(work)
    return PooledSimulator(executor(), work, threads=threads)


def _reduce(
    work: ClientWork,
    state: ModelState,
    threads: int,
    chunk: Chunk,
    known: Sequence[int],
    *memories: ClientState,
) -> Reduced:
    """What a worker does with a chunk; `memories` are those of the clients `known`."""
    torch.set_num_threads(threads)
    return work.reduce(state, chunk, dict(zip(known, memories, strict=True)))


def _count(work: ClientWork, state: ModelState, threads: int, indices: Sequence[int]) -> int:
    """What a worker does with a part of the validation images."""
    torch.set_num_threads(threads)
    return work.federation.correct(state, indices)
