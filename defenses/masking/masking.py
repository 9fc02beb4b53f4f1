"""Secure aggregation as a setting."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from defenses.masking.exchange import KeyAgreement, MaskedExchange
from defenses.secure.exchange import dropouts
from defenses.secure.fixed_point import FixedPoint
from defenses.secure.protection import SumProtection
from fl_core.base.errors import InputError
from fl_core.base.libraries import library
from fl_core.base.types import InUnits, Protection, require


@dataclass(frozen=True, kw_only=True)
class Masking(SumProtection):
    """Pairwise masking with dropout recovery (Bonawitz et al., CCS 2017).

    X25519, HKDF-SHA256, AES-256-CTR and ChaCha20-Poly1305 from cryptography, Shamir's secret sharing from
    pycryptodome. Sums are modulo 2^`word_bits`, in steps of 1 / `precision`: at 32 bits, 10 clients and the
    default precision, numbers are at most 51 in magnitude. `threshold` is the fraction of the clients that has to
    stay to the end; fewer than that, with the server, learn nothing of a single update. In simulated rounds the
    fraction `dropout` of the clients, rounded down and chosen anew in each, drops out after masking: their masks are
    taken off the sum by what the others hold.
    """

    protection: ClassVar[Protection] = "masked"
    kind: Literal["masking"] = "masking"
    threshold: Annotated[float, InUnits("share")] = 2 / 3
    precision: int = 2**22
    word_bits: Literal[32, 64] = 32
    dropout: Annotated[float, InUnits("share")] = 0.0

    def __post_init__(self) -> None:
        require(0.5 < self.threshold <= 1, self, "threshold", "more than a half and at most 1")
        require(self.precision >= 1, self, "precision", "at least 1 step a unit")
        require(0 <= self.dropout < 0.5, self, "dropout", "at least 0 and less than a half")

    @property
    def lost(self) -> float:
        """See `SumProtection.lost`."""
        return self.dropout

    def check_round(self, clients: int) -> None:
        """See `SumProtection.check_round`: the survivors have to reach the threshold."""
        require(
            clients >= 2, self, "kind", f"another one: masks need 2 clients a round, and it has {clients}"
        )
        left, needed = clients - dropouts(self.dropout, clients), self.needed(clients)
        rule = f"smaller: it leaves {left} of {clients} clients, and the threshold needs {needed}"
        require(left >= needed, self, "dropout", rule)

    def check_library(self) -> None:
        """See `Mechanism.check_library`: cryptography and pycryptodome."""
        for module, package in (("cryptography", "cryptography"), ("Crypto", "pycryptodome")):
            library(module, f"Secure aggregation needs it: pip install {package}")

    def exchange(self, clients: Sequence[int]) -> MaskedExchange:
        """See `SumProtection.exchange`: keys are advertised and shares exchanged, afresh for every sum.

        Raises `InputError` for fewer than two clients, for one that is named twice, and where a library is missing.
        """
        if len(clients) < 2 or len(set(clients)) != len(clients):
            raise InputError(
                f"Clients {list(clients)}: secure aggregation needs at least two, and each once."
            )
        self.check_library()
        from defenses.masking.parties import agree_on_keys

        started, needed = time.process_time(), self.needed(len(clients))
        parties, roster, sent = agree_on_keys(sorted(clients), threshold=needed, word_bits=self.word_bits)
        return MaskedExchange(
            fixed=self.fixed(len(clients)),
            word_bits=self.word_bits,
            agreement=KeyAgreement(parties=parties, roster=roster, threshold=needed, bytes_sent=sent),
            setup_seconds=time.process_time() - started,
        )

    def needed(self, clients: int) -> int:
        """How many of `clients` have to stay to the end."""
        return max(2, math.ceil(self.threshold * clients - 1e-9))

    def fixed(self, clients: int) -> FixedPoint:
        """How numbers become steps, and the largest that every one of `clients` may send at once."""
        return FixedPoint(precision=self.precision, limit=((1 << (self.word_bits - 1)) - 1) // clients)
