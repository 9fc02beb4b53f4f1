"""What a homomorphic sum will take: seconds and bytes, extrapolated from one real block."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import numpy as np

from defenses.he.exchange import EncryptedExchange
from fl_core.base.errors import InputError


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


def estimate(exchange: EncryptedExchange, values: int, *, clients: int, workers: int = 1) -> Estimate:
    """Seconds and bytes of a sum over so many clients, measured on one real block of two of them.

    The block has at most a few thousand values; additions and openings are counted, idle workers are not. Raises
    `ValueError` where the secret key is elsewhere.
    """
    if exchange.secret is None:
        raise ValueError("The secret key is elsewhere.")
    public, two = exchange.public, min(2, clients)
    sample = min(values, public.sample)
    steps = np.arange(sample, dtype=np.int64) % (2 * public.fixed.limit + 1) - public.fixed.limit
    started = time.process_time()
    uploads = [public.encrypt(steps) for _ in range(two)]
    protected = time.process_time()
    total = public.add(uploads)
    added = time.process_time()
    exchange.secret.decrypt(total, numbers=sample, addends=two)
    revealed = time.process_time()
    adding = (added - protected) / max(two - 1, 1) * max(clients - 1, 1)
    one = (protected - started) / two * clients + adding + revealed - added
    times = values / sample
    return Estimate(
        values=values,
        clients=clients,
        workers=workers,
        seconds=one * times / workers,
        bytes_up=round(max(sum(map(len, upload)) for upload in uploads) * times),
    )


def local_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
