"""What a defense is, and the two operations that many are made of: clipping and noise."""

from __future__ import annotations

from defenses.mechanism.base import STAGES, Adversary, Mechanism, Privacy, Stage, Unit
from defenses.mechanism.clipping import bounded
from defenses.mechanism.draws import Distribution, add_noise, draw_noise, perturb
from defenses.mechanism.libraries import library
from defenses.mechanism.noise import ClipOnly, NoiseOnly

__all__ = [
    "add_noise",
    "Adversary",
    "bounded",
    "ClipOnly",
    "Distribution",
    "draw_noise",
    "library",
    "Mechanism",
    "NoiseOnly",
    "perturb",
    "Privacy",
    "Stage",
    "STAGES",
    "Unit",
]
