"""What keys do: a public key protects and adds, a secret key opens. Needs NumPy alone, so that workers start fast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from defenses.secure.fixed_point import FixedPoint, Integers

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

    def encrypt(self, steps: Integers) -> Ciphertexts:
        """A client's block, encrypted with fresh randomness."""

    def add(self, uploads: Sequence[Ciphertexts]) -> Ciphertexts:
        """The sum of blocks, without opening any."""


class SecretKey(Protocol):
    """What the key holder alone has."""

    def decrypt(self, total: Ciphertexts, *, numbers: int, addends: int) -> Integers:
        """The `numbers` values of a block that is the sum of `addends` protected ones, exactly."""
