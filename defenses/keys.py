"""What keys do: a public key protects and adds, a secret key opens. Needs NumPy alone, so that workers start fast."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from defenses.fixed_point import FixedPoint, Integers

Ciphertexts = tuple[bytes, ...]
"""One block of an update, encrypted, as it travels."""


class PublicKey(Protocol):
    """What clients and server have: it encrypts and adds, and cannot open anything."""

    @property
    def block(self) -> int:
        """How many values are one unit of work."""

    @property
    def sample(self) -> int:
        """How many values an estimate encrypts."""

    @property
    def fixed(self) -> FixedPoint:
        """How numbers become steps, and the largest number that every client may send at once."""

    def protect(self, steps: Integers) -> Ciphertexts:
        """A client's block, encrypted with fresh randomness."""

    def add(self, uploads: Sequence[Ciphertexts]) -> Ciphertexts:
        """The sum of blocks, without opening any."""


class SecretKey(Protocol):
    """What the key holder alone has."""

    def reveal(self, total: Ciphertexts, *, numbers: int, addends: int) -> Integers:
        """The `numbers` values of a block that is the sum of `addends` protected ones, exactly."""


@dataclass(frozen=True, kw_only=True)
class BlockSum:
    """One block's sum in steps, the most bytes of a client, and each part's CPU seconds (all clients)."""

    steps: Integers
    bytes_up: int
    protect_seconds: float
    add_seconds: float
    reveal_seconds: float


def sum_block(public: PublicKey, secret: SecretKey, blocks: Sequence[Integers]) -> BlockSum:
    """The sum of one block of every client through ciphertexts; a unit of work for any worker.

    Clients and server use `public` alone, `secret` only opens the sum.
    """
    started = time.process_time()
    uploads = [public.protect(block) for block in blocks]
    protected = time.process_time()
    total = public.add(uploads)
    added = time.process_time()
    steps = secret.reveal(total, numbers=len(blocks[0]), addends=len(blocks))
    revealed = time.process_time()
    return BlockSum(
        steps=steps,
        bytes_up=max(sum(map(len, upload)) for upload in uploads),
        protect_seconds=protected - started,
        add_seconds=added - protected,
        reveal_seconds=revealed - added,
    )
