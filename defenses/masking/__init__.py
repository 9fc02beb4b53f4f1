"""Secure aggregation by pairwise masks."""

from __future__ import annotations

from defenses.masking.masking import Masking

__all__ = [
    "Masking",
]
