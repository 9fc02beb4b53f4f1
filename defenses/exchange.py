"""One round of a secure sum in parts that may lie in different processes: who protects, who adds, who opens."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from defenses.fixed_point import FixedPoint, Integers
from defenses.keys import Ciphertexts, PublicKey, SecretKey

if TYPE_CHECKING:
    from defenses.masking_parties import Advertisement, Masker, Participant, WordBits


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A sum in steps, and the most bytes that one client sent beside its upload."""

    steps: Integers
    extra_bytes: int = 0


class Exchange(Protocol):
    """The parties of one round after their keys are made.

    An upload is a sequence of blocks, so that one block of one client is all that is held beside a sum.
    """

    @property
    def fixed(self) -> FixedPoint:
        """How numbers become steps."""

    @property
    def setup_seconds(self) -> float:
        """CPU seconds that all parties took for keys."""

    def for_clients(self, clients: Sequence[int]) -> Exchange:
        """What these clients hold, as bytes and numbers; nothing that opens a sum."""

    def blocks(self, client: int, steps: Integers) -> Iterator[Ciphertexts]:
        """A client's update, protected block by block."""

    def add(self, left: Ciphertexts, right: Ciphertexts) -> Ciphertexts:
        """The sum of two blocks, of uploads or of sums, without opening them."""

    def reveal(self, total: Sequence[Ciphertexts], *, numbers: int, clients: Sequence[int]) -> Opened:
        """The sum of the uploads of `clients`, all blocks of it. Raises `InputError` where it must stay closed."""


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
        return (self.public.protect(steps[start : start + size]) for start in range(0, len(steps), size))

    def add(self, left: Ciphertexts, right: Ciphertexts) -> Ciphertexts:
        """See `Exchange.add`."""
        return self.public.add([left, right])

    def reveal(self, total: Sequence[Ciphertexts], *, numbers: int, clients: Sequence[int]) -> Opened:
        """See `Exchange.reveal`."""
        if self.secret is None:
            raise ValueError("The secret key is elsewhere.")
        parts = []
        for number, block in enumerate(total):
            size = min(self.public.block, numbers - number * self.public.block)
            parts.append(self.secret.reveal(block, numbers=size, addends=len(clients)))
        return Opened(steps=np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64))


@dataclass(frozen=True, kw_only=True)
class Met:
    """Clients that hold each other's shares, and what was said in public."""

    parties: Mapping[int, Participant] = field(repr=False)
    roster: Mapping[int, Advertisement]
    threshold: int
    bytes_sent: int


@dataclass(frozen=True, kw_only=True)
class MaskedExchange:
    """Pairwise masks; an upload is one block, because its masks are one key stream. An `Exchange`.

    `met` is None where clients are simulated apart: there `maskers` holds what each of them adds to its update.
    """

    fixed: FixedPoint
    word_bits: WordBits
    met: Met | None = None
    maskers: Mapping[int, Masker] = field(default_factory=dict, repr=False)
    setup_seconds: float = 0.0

    def for_clients(self, clients: Sequence[int]) -> MaskedExchange:
        """See `Exchange.for_clients`."""
        if self.met is None:
            return self
        maskers = {client: self.met.parties[client].masker() for client in clients}
        return dataclasses.replace(self, met=None, maskers=maskers)

    def blocks(self, client: int, steps: Integers) -> Iterator[Ciphertexts]:
        """See `Exchange.blocks`."""
        yield (self.maskers[client](steps),)

    def add(self, left: Ciphertexts, right: Ciphertexts) -> Ciphertexts:
        """See `Exchange.add`: modulo 2^word_bits."""
        kind = f"<u{self.word_bits // 8}"
        return ((np.frombuffer(left[0], dtype=kind) + np.frombuffer(right[0], dtype=kind)).tobytes(),)

    def reveal(self, total: Sequence[Ciphertexts], *, numbers: int, clients: Sequence[int]) -> Opened:
        """See `Exchange.reveal`: fewer clients than the threshold give no sum."""
        from defenses.masking_parties import Server

        met = self.met
        if met is None:
            raise ValueError("The clients that could help to open the sum are elsewhere.")
        server = Server(met.roster, values=numbers, threshold=met.threshold, word_bits=self.word_bits)
        server.add_sum(clients, total[0][0])
        answers = {client: met.parties[client].answer(server.survivors) for client in clients}
        steps = server.reveal(answers)
        return Opened(steps=steps, extra_bytes=met.bytes_sent + max(each.size for each in answers.values()))
