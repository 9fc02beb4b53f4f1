"""How an attack has layer inputs read off an observation, as it is set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Estimate = Literal["ratio", "weighted", "rank_one"]
"""How one image's layer input is read: `attack_core.fc.inversion.input_estimate` says what each is."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How layer inputs are read; the fields are those of `Analytic`."""

    estimate: Literal["auto"] | Estimate
    rounds: int
    tolerance: float
    drift_tolerance: float
