"""The strength of a defense as a scale from weak to strong."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from fl_core.base.types import Config, InUnits, require

MOST_POINTS = 1000
LARGEST = 1e15
"""Strengths beyond this are a slip of the keyboard, and their differences no longer numbers."""


@dataclass(frozen=True, kw_only=True)
class Strength(Config):
    """One number of a cell that goes from `weak` to `strong`.

    `path` leads to it in the cell's `defense` (`defense.1.sigma`) or names a setting of the sweep
    (`federation.local.batch_size`), which then counts among the cell's differences. There are `points` strengths,
    both ends among them, even in `scale`: the logarithm, the number itself, or the logarithm of what is left of 1
    (for shares such as 0.9, 0.99, 0.999). `integer` rounds to whole numbers.
    """

    path: str
    """The number's dotted path: into `defense`, or a setting of the sweep."""
    weak: float
    """The weakest strength."""
    strong: float
    """The strongest strength."""
    points: Annotated[int, InUnits("strengths")] = 6
    """How many strengths the grid has, both ends among them."""
    scale: Literal["log", "linear", "log_rest"] = "log"
    """In what they are even: the logarithm, the number, or the logarithm of what is left of 1."""
    integer: bool = False
    """Whether strengths are whole numbers."""

    def __post_init__(self) -> None:
        require(2 <= self.points <= MOST_POINTS, self, "points", f"from 2 to {MOST_POINTS}")
        for name in ("weak", "strong"):
            require(abs(getattr(self, name)) <= LARGEST, self, name, f"a number of at most {LARGEST:g}")
        require(self.weak != self.strong, self, "strong", "another number than 'weak'")
        ends = (self.weak, self.strong)
        positive = self.scale != "log" or min(ends) > 0
        require(positive, self, "scale", "'linear' for numbers that are not above 0")
        shares = self.scale != "log_rest" or (min(ends) >= 0 and max(ends) < 1)
        require(shares, self, "scale", "'log_rest' for numbers in [0, 1) alone")
        # As they are measured: 0.3 as a whole number is 0, and 0.9999999999999 to twelve digits is 1.
        rounded = [self.value(self.position(end)) for end in ends]
        apart = self.scale != "log" or min(rounded) > 0
        require(apart, self, "weak", "a number that is not 0 when it is rounded to a whole one")
        below = self.scale != "log_rest" or max(rounded) < 1
        require(below, self, "strong", "a share that is not 1 when it is rounded to twelve digits")

    def position(self, value: float) -> float:
        """Where `value` lies on the scale: larger is stronger."""
        direction = 1.0 if self.strong > self.weak else -1.0
        match self.scale:
            case "log":
                return direction * math.log(value)
            case "linear":
                return direction * value
            case "log_rest":
                return -direction * math.log(1.0 - value)

    def value(self, position: float) -> float:
        """The strength at `position`."""
        direction = 1.0 if self.strong > self.weak else -1.0
        match self.scale:
            case "log":
                found = math.exp(direction * position)
            case "linear":
                found = direction * position
            case "log_rest":
                # What is left is the number that counts: 0.99999 has one digit of it.
                return round(1.0 - _short(math.exp(-direction * position)), 12)
        return float(round(found)) if self.integer else _short(found)

    def grid(self) -> list[float]:
        """The strengths to begin with, weakest first, each once."""
        start, end = self.position(self.weak), self.position(self.strong)
        step = (end - start) / (self.points - 1)
        places = [*(i * step + start for i in range(self.points - 1)), end]
        return list(dict.fromkeys(map(self.value, places)))


def _short(value: float) -> float:
    """Four digits are enough for a strength, and readable in a cell's name."""
    return float(f"{value:.4g}")
