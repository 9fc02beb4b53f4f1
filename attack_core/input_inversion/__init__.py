"""Inversion of input defenses: from the images that a client trained on to those that it holds."""

from __future__ import annotations

from attack_core.input_inversion.inversion import undone

__all__ = [
    "undone",
]
