"""One round of secure aggregation by pairwise masks: every client masks, anybody adds, enough clients open the sum."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from defenses.secure.exchange import Opened
from defenses.secure.fixed_point import FixedPoint, Integers
from defenses.secure.keys import Ciphertexts

if TYPE_CHECKING:
    from defenses.masking.parties import Advertisement, Masker, Participant, WordBits


@dataclass(frozen=True, kw_only=True)
class KeyAgreement:
    """Clients that hold each other's shares, and what was said in public."""

    parties: Mapping[int, Participant] = field(repr=False)
    roster: Mapping[int, Advertisement]
    threshold: int
    bytes_sent: int


@dataclass(frozen=True, kw_only=True)
class MaskedExchange:
    """Pairwise masks; an upload is one block, because its masks are one key stream. An `Exchange`.

    `agreement` is None where clients are simulated apart: there `maskers` holds what each of them adds to its update.
    """

    fixed: FixedPoint
    word_bits: WordBits
    agreement: KeyAgreement | None = None
    maskers: Mapping[int, Masker] = field(default_factory=dict, repr=False)
    setup_seconds: float = 0.0

    def for_clients(self, clients: Sequence[int]) -> MaskedExchange:
        """See `Exchange.for_clients`."""
        if self.agreement is None:
            return self
        maskers = {client: self.agreement.parties[client].masker() for client in clients}
        return dataclasses.replace(self, agreement=None, maskers=maskers)

    def blocks(self, client: int, steps: Integers) -> Iterator[Ciphertexts]:
        """See `Exchange.blocks`."""
        yield (self.maskers[client](steps),)

    def add(self, left: Ciphertexts, right: Ciphertexts) -> Ciphertexts:
        """See `Exchange.add`: modulo 2^word_bits."""
        import numpy as np

        kind = f"<u{self.word_bits // 8}"
        return ((np.frombuffer(left[0], dtype=kind) + np.frombuffer(right[0], dtype=kind)).tobytes(),)

    def reveal(self, total: Sequence[Ciphertexts], *, numbers: int, clients: Sequence[int]) -> Opened:
        """See `Exchange.reveal`: fewer clients than the threshold give no sum."""
        from defenses.masking.parties import Server

        agreement = self.agreement
        if agreement is None:
            raise ValueError("The clients that could help to open the sum are elsewhere.")
        server = Server(
            agreement.roster, values=numbers, threshold=agreement.threshold, word_bits=self.word_bits
        )
        server.add_sum(clients, total[0][0])
        answers = {client: agreement.parties[client].unmasking_shares(server.survivors) for client in clients}
        steps = server.reveal(answers)
        return Opened(
            steps=steps, extra_bytes=agreement.bytes_sent + max(each.size for each in answers.values())
        )
