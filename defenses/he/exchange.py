"""One round of a homomorphic sum: every client encrypts, anybody adds, the key holder alone opens the sum."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from defenses.secure.exchange import Opened
from defenses.secure.fixed_point import FixedPoint, Integers
from defenses.secure.keys import Ciphertexts, PublicKey, SecretKey


@dataclass(frozen=True, kw_only=True)
class EncryptedExchange:
    """One key pair for everybody; the secret key stays with the key holder. An `Exchange`."""

    public: PublicKey
    secret: SecretKey | None = field(default=None, repr=False)
    setup_seconds: float = 0.0

    @property
    def fixed(self) -> FixedPoint:
        """See `Exchange.fixed`."""
        return self.public.fixed

    def for_clients(self, clients: Sequence[int]) -> EncryptedExchange:
        """See `Exchange.for_clients`."""
        return dataclasses.replace(self, secret=None)

    def blocks(self, client: int, steps: Integers) -> Iterator[Ciphertexts]:
        """See `Exchange.blocks`."""
        size = self.public.block
        return (self.public.encrypt(steps[start : start + size]) for start in range(0, len(steps), size))

    def add(self, left: Ciphertexts, right: Ciphertexts) -> Ciphertexts:
        """See `Exchange.add`."""
        return self.public.add([left, right])

    def reveal(self, total: Sequence[Ciphertexts], *, numbers: int, clients: Sequence[int]) -> Opened:
        """See `Exchange.reveal`."""
        import numpy as np

        if self.secret is None:
            raise ValueError("The secret key is elsewhere.")
        parts = []
        for number, block in enumerate(total):
            size = min(self.public.block, numbers - number * self.public.block)
            parts.append(self.secret.decrypt(block, numbers=size, addends=len(clients)))
        return Opened(steps=np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64))
