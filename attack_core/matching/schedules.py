"""How candidates move, as it is set: the names of optimizers and signs, and the rate that a schedule gives."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

OptimizerName = Literal["adam", "adamw", "sgd", "lbfgs"]
Schedule = Literal["none", "cosine", "step"]
Sign = Literal["none", "hard", "soft"]


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    """What the schedules take that no sweep file sets."""

    longest_warmup: int = 100
    """Cosine: how many iterations the linear rise takes at most; else a tenth of all. Not measured."""
    last_rate: float = 0.01
    """Cosine: the share of the learning rate that is left at the end. Not measured against other values."""


SCHEDULE_SETTINGS = ScheduleSettings()
"""The settings in force."""


def warmup(iterations: int) -> int:
    """How many iterations the cosine schedule's linear warm-up takes: a tenth, at most 100."""
    return min(SCHEDULE_SETTINGS.longest_warmup, iterations // 10)


def rate_factor(schedule: Schedule, iteration: int, iterations: int) -> float:
    """What the base learning rate is multiplied by at `iteration`.

    `cosine`: linear warm-up, then a half cosine down to 1%. `step`: a tenth from 3/8, 5/8 and 7/8 of the
    iterations on, each (Geiping et al. 2020).
    """
    match schedule:
        case "none":
            return 1.0
        case "step":
            return 0.1 ** sum(8 * iteration >= eighths * iterations for eighths in (3, 5, 7))
        case "cosine":
            rising = warmup(iterations)
            if iteration < rising:
                return (iteration + 1) / rising
            done = (iteration - rising) / max(1, iterations - rising)
            least = SCHEDULE_SETTINGS.last_rate
            return least + (1.0 - least) * 0.5 * (1.0 + math.cos(math.pi * done))
