"""What a secure sum is: many clients' updates in, only their sum out, with what it cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Protocol

from fl_core.types import ClientUpdate, Tensors

Progress = Callable[[int, int], None]
"""Called with the units of work (values or clients) that are done and with all of them."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one secure sum cost, measured while it ran.

    `bytes_up` is the most that one client sent, all its messages together. Seconds are CPU seconds, wherever the
    work ran: `setup_seconds` for keys and their exchange (all parties), `protect_seconds` for one client's
    protection (the mean), `add_seconds` for the server's work on protected updates, `reveal_seconds` for opening
    the sum. `rounding_error` is the largest distance between a revealed number and the sum in float64.
    """

    values: int
    clients: int
    bytes_up: int
    setup_seconds: float
    protect_seconds: float
    add_seconds: float
    reveal_seconds: float
    rounding_error: float


@dataclass(frozen=True, kw_only=True)
class Summed:
    """The sum by name, whose updates are in it, and its cost."""

    tensors: Tensors
    clients: tuple[int, ...]
    cost: Cost


class Session(Protocol):
    """Parties that are set up for a round."""

    def sum(
        self,
        updates: Mapping[int, Tensors],
        *,
        executor: Executor | None = None,
        progress: Progress | None = None,
    ) -> Summed:
        """The sum of the updates by client; a client of the session that is missing has dropped out.

        Every number of every tensor goes through the real scheme. The sum is exact for the fixed-point numbers
        that the updates are rounded to, whatever `executor` does the work (None: this process does). Raises
        `InputError` for numbers that would wrap and for fewer clients than the scheme can do with; then nothing
        is revealed.
        """


class SecureSum(Protocol):
    """A scheme; the object is its own config."""

    def setup(self, clients: Sequence[int], *, seed: int | None = None) -> Session:
        """Keys for these clients, from the operating system's randomness.

        `seed` fixes what is drawn for research and not for secrecy (noise before encryption); a scheme that draws
        such numbers raises `ValueError` without it.
        """


def secure_mean(
    session: Session,
    updates: Sequence[ClientUpdate],
    *,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> Summed:
    """FedAvg's mean of whole updates, tensors and buffers, weighted by examples, through a secure sum.

    Numbers of examples are public, as in FedAvg: each client scales its update by its share of the largest one,
    and the server divides the sum by those of the clients that are in it. The rounding error is the mean's.
    """
    largest = max(update.examples for update in updates)
    weights = {update.client: update.examples / largest for update in updates}
    scaled = {
        update.client: {
            name: value * weights[update.client]
            for name, value in {**update.tensors, **update.buffers}.items()
        }
        for update in updates
    }
    summed = session.sum(scaled, executor=executor, progress=progress)
    total = sum(weights[client] for client in summed.clients)
    return Summed(
        tensors={name: value / total for name, value in summed.tensors.items()},
        clients=summed.clients,
        cost=dataclasses.replace(summed.cost, rounding_error=summed.cost.rounding_error / total),
    )
