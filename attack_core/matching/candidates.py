"""The candidates of a matching attack, as they are set: what moves, and when one ends before the others."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from fl_core.base.types import Config, InUnits, require

Parametrisation = Literal["pixels", "deep_prior"]


@dataclass(frozen=True, kw_only=True)
class EarlyStop(Config):
    """End a candidate after `patience` iterations that improved its best loss by less than `min_delta` in all."""

    patience: Annotated[int, InUnits("iterations")] = 500
    min_delta: float = 1e-4

    def __post_init__(self) -> None:
        require(self.patience >= 1, self, "patience", "at least 1")
        require(self.min_delta >= 0, self, "min_delta", "at least 0")


@dataclass(frozen=True, kw_only=True)
class RestartHalving(Config):
    """End all but the better restarts after a share of the iterations, by the loss that the attacker sees.

    Successive halving (Jamieson and Talwalkar, AISTATS 2016) in one step. The defaults evaluate 44% of what all
    restarts would; docs/attacks.md says on what they were chosen.
    """

    after: float = 0.25
    """Share of the iterations that all restarts take."""
    keep: float = 0.25
    """Share of the restarts that goes on, rounded up."""

    def __post_init__(self) -> None:
        for name in ("after", "keep"):
            require(0 < getattr(self, name) < 1, self, name, "more than 0 and less than 1")

    def begins(self, iterations: int) -> int:
        """After how many of so many iterations restarts end."""
        return max(1, math.ceil(self.after * iterations))

    def kept(self, restarts: int) -> int:
        """How many of so many restarts go on."""
        return math.ceil(self.keep * restarts)
