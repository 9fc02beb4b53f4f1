"""What an attack is, and what it returns."""

from __future__ import annotations

from attack_core.base.types import PRIOR_ALONE, AttackFailed, Progress, Reconstruction

__all__ = [
    "AttackFailed",
    "PRIOR_ALONE",
    "Progress",
    "Reconstruction",
]
