"""Homomorphic sums: every client encrypts, anybody adds, the key holder alone opens the sum.

One loop serves every scheme. It streams: a block of all clients is encrypted, added, opened and dropped before
the next, so that ciphertexts of one block a worker are all that is ever in memory.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from defenses.encrypted_noise import SeededNoise
from defenses.fixed_point import Integers, Reals
from defenses.keys import BlockSum, PublicKey, SecretKey, sum_block
from defenses.packing import Layout
from defenses.secure_sum import Cost, Progress, Summed
from fl_core.errors import InputError
from fl_core.types import Tensors


@dataclass(frozen=True, kw_only=True)
class EncryptedSession:
    """A key pair for these clients; see `defenses.secure_sum.Session`.

    The key holder is a party of its own that does not collude with the server; clients do not need `secret`.
    """

    clients: tuple[int, ...]
    public: PublicKey
    secret: SecretKey = field(repr=False)
    noise: SeededNoise | None = None
    setup_seconds: float = 0.0

    def sum(
        self,
        updates: Mapping[int, Tensors],
        *,
        executor: Executor | None = None,
        progress: Progress | None = None,
    ) -> Summed:
        """See `Session.sum`; progress counts values."""
        known_clients(updates, self.clients)
        if not updates:
            raise InputError("No client is left to sum: 1 is needed.")
        layout = Layout.of(next(iter(updates.values())))
        vectors = {client: layout.flatten(self._noisy(client, each)) for client, each in updates.items()}
        for client, vector in vectors.items():
            self.public.fixed.check(vector, _naming(client, layout))  # Before anything is opened.
        total = np.zeros(layout.size)
        bytes_up, error, seconds = 0, 0.0, np.zeros(3)
        starts = range(0, layout.size, self.public.block)
        work = ([self._steps(c, v, layout, start) for c, v in vectors.items()] for start in starts)
        done = _bounded(executor, self.public, self.secret, work)
        for start, block in zip(starts, done, strict=True):
            stop = start + len(block.steps)
            total[start:stop] = self.public.fixed.decode(block.steps)
            error = max(error, _distance(total[start:stop], [v[start:stop] for v in vectors.values()]))
            bytes_up += block.bytes_up
            seconds += (block.protect_seconds, block.add_seconds, block.reveal_seconds)
            if progress:
                progress(stop, layout.size)
        return Summed(
            tensors=layout.restore(total),
            clients=tuple(updates),
            cost=Cost(
                values=layout.size,
                clients=len(updates),
                bytes_up=bytes_up,
                setup_seconds=self.setup_seconds,
                protect_seconds=float(seconds[0]) / len(updates),
                add_seconds=float(seconds[1]),
                reveal_seconds=float(seconds[2]),
                rounding_error=error,
            ),
        )

    def _noisy(self, client: int, tensors: Tensors) -> Tensors:
        return self.noise.add(tensors, client) if self.noise else tensors

    def _steps(self, client: int, vector: NDArray[np.floating], layout: Layout, start: int) -> Integers:
        return self.public.fixed.encode(
            vector[start : start + self.public.block], _naming(client, layout, start)
        )


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a sum of `values` numbers from `clients` clients will take, extrapolated from a measured block."""

    values: int
    clients: int
    workers: int
    seconds: float
    bytes_up: int

    def __str__(self) -> str:
        return (
            f"{self.values:,} values of {self.clients} clients on {self.workers} cores: about "
            f"{_duration(self.seconds)}, {self.bytes_up / 1e6:,.1f} MB of ciphertext a client"
        )

    def require_consent(self, *, allow_slow: bool, free_seconds: float = 600.0) -> None:
        """Raise `InputError` where it takes longer than `free_seconds` and nobody has said `allow_slow: true`."""
        if self.seconds > free_seconds and not allow_slow:
            raise InputError(
                f"Encryption would be slow ({self}); set execution.allow_slow: true, or give --yes, to run it anyway."
            )


def estimate(session: EncryptedSession, values: int, *, workers: int = 1) -> Estimate:
    """Seconds and bytes of a sum over the session's clients, measured on one real block of two clients.

    The block has at most a few thousand values; additions and openings are counted, idle workers are not.
    """
    sample = min(values, session.public.sample)
    numbers = np.arange(sample, dtype=np.int64) % (2 * session.public.fixed.limit + 1)
    block = numbers - session.public.fixed.limit
    two = min(2, len(session.clients))
    measured = sum_block(session.public, session.secret, [block] * two)
    clients, times = len(session.clients), values / sample
    one = measured.protect_seconds / two * clients + measured.reveal_seconds
    adding = measured.add_seconds * max(clients - 1, 1) / max(two - 1, 1)
    return Estimate(
        values=values,
        clients=clients,
        workers=workers,
        seconds=(one + adding) * times / workers,
        bytes_up=round(measured.bytes_up * times),
    )


def local_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def local_pool(workers: int | None = None) -> ProcessPoolExecutor:
    """Fresh worker processes, by default one a core."""
    return ProcessPoolExecutor(workers or local_cores(), mp_context=multiprocessing.get_context("spawn"))


def known_clients(updates: Mapping[int, Tensors], clients: Sequence[int]) -> None:
    """Raise `InputError` for an update of a client that was not set up."""
    strangers = sorted(set(updates) - set(clients))
    if strangers:
        raise InputError(f"Client {strangers[0]} has no key here; set up for {sorted(clients)}.")


def _naming(client: int, layout: Layout, start: int = 0) -> Callable[[int], str]:
    return lambda index: f"Client {client}'s {layout.place(start + index)}"


def _bounded(
    executor: Executor | None, public: PublicKey, secret: SecretKey, work: Iterator[list[Integers]]
) -> Iterator[BlockSum]:
    """`sum_block` over `work` in order, with a few blocks in flight, so that memory stays small."""
    if executor is None:
        yield from (sum_block(public, secret, blocks) for blocks in work)
        return
    flying: deque[Future[BlockSum]] = deque()
    depth = 2 * local_cores()
    try:
        for blocks in work:
            flying.append(executor.submit(sum_block, public, secret, blocks))
            if len(flying) >= depth:
                yield flying.popleft().result()
        while flying:
            yield flying.popleft().result()
    finally:
        for future in flying:
            future.cancel()


def _distance(total: Reals, parts: list[NDArray[np.floating]]) -> float:
    exact = np.zeros_like(total)
    for part in parts:
        exact += part
    return float(np.abs(total - exact).max(initial=0.0))


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
