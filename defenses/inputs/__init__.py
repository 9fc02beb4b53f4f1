"""Defenses that change what a client trains on, or the network that it trains: mixtures, transforms, PRECODE."""

from __future__ import annotations

from defenses.inputs.ats import ATS
from defenses.inputs.mixing import InstaHide, MixUp
from defenses.inputs.precode import Precode

__all__ = [
    "ATS",
    "InstaHide",
    "MixUp",
    "Precode",
]
