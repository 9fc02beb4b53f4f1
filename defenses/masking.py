"""Secure aggregation as a setting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from defenses.fixed_point import FixedPoint
from defenses.libraries import library
from fl_core.errors import InputError
from fl_core.types import Config, require

if TYPE_CHECKING:
    from defenses.masking_round import MaskedSession


@dataclass(frozen=True, kw_only=True)
class Masking(Config):
    """Pairwise masking with dropout recovery (Bonawitz et al., CCS 2017).

    X25519, HKDF-SHA256, AES-256-CTR and ChaCha20-Poly1305 from cryptography, Shamir's secret sharing from
    pycryptodome. Sums are modulo 2^`word_bits`, in steps of 1 / `precision`: at 32 bits, 10 clients and the
    default precision, numbers are at most 51 in magnitude. `threshold` is the fraction of the clients that has to
    stay to the end; fewer than that, with the server, learn nothing of a single update.
    """

    kind: Literal["masking"] = "masking"
    threshold: float = 2 / 3
    precision: int = 2**22
    word_bits: Literal[32, 64] = 32

    def __post_init__(self) -> None:
        require(0.5 < self.threshold <= 1, self, "threshold", "more than a half and at most 1")
        require(self.precision >= 1, self, "precision", "at least 1 step a unit")
        require(self.word_bits in (32, 64), self, "word_bits", "32 or 64")

    def needed(self, clients: int) -> int:
        """How many of `clients` have to stay to the end."""
        return max(2, math.ceil(self.threshold * clients - 1e-9))

    def fixed(self, clients: int) -> FixedPoint:
        """How numbers become steps, and the largest that every one of `clients` may send at once."""
        return FixedPoint(precision=self.precision, limit=((1 << (self.word_bits - 1)) - 1) // clients)

    def setup(self, clients: Sequence[int], *, seed: int | None = None) -> MaskedSession:
        """A session; keys are made afresh in every sum. Raises `InputError` for fewer than two clients."""
        del seed  # Nothing is drawn but secrets.
        for module, package in (("cryptography", "cryptography"), ("Crypto", "pycryptodome")):
            library(module, f"Secure aggregation needs it: pip install {package}")
        from defenses.masking_round import MaskedSession

        if len(clients) < 2 or len(set(clients)) != len(clients):
            raise InputError(
                f"Clients {list(clients)}: secure aggregation needs at least two, and each once."
            )
        return MaskedSession(clients=tuple(sorted(clients)), config=self)
