"""Homomorphic encryption: CKKS and Paillier."""

from __future__ import annotations

from defenses.he.encryption import CKKS, INSECURE, InsecureKey, Paillier
from defenses.he.estimate import estimate, local_cores

__all__ = [
    "CKKS",
    "estimate",
    "INSECURE",
    "InsecureKey",
    "local_cores",
    "Paillier",
]
