"""The attacks that users name, and their registry."""

from __future__ import annotations

from attack_core.attacks.analytic import Analytic
from attack_core.attacks.auto import Auto
from attack_core.attacks.registry import NAMED, AnyAttack, matching_part, with_matching_part

__all__ = [
    "Analytic",
    "AnyAttack",
    "Auto",
    "matching_part",
    "NAMED",
    "with_matching_part",
]
