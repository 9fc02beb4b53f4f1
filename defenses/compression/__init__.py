"""Defenses that send less of an update: pruning, sign and quantisation, representation pruning (Soteria)."""

from __future__ import annotations

from defenses.compression.compression import Prune, Quantise, SignOnly
from defenses.compression.soteria import Soteria

__all__ = [
    "Prune",
    "Quantise",
    "SignOnly",
    "Soteria",
]
