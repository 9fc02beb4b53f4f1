"""Secure sums, whatever the scheme: fixed point, the exchange of a round, the mean of protected updates."""

from __future__ import annotations

from defenses.secure.exchange import Opened
from defenses.secure.fixed_point import FixedPoint, Integers, Lanes, guard_bits
from defenses.secure.keys import Ciphertexts, PublicKey, SecretKey
from defenses.secure.mean import SecureMean, SumProtection, dropouts
from defenses.secure.selective import Selective

__all__ = [
    "Ciphertexts",
    "dropouts",
    "FixedPoint",
    "guard_bits",
    "Integers",
    "Lanes",
    "Opened",
    "PublicKey",
    "SecretKey",
    "SecureMean",
    "Selective",
    "SumProtection",
]
