"""Where a curve over a defense's strength falls below a level: isotonic, interpolated, bootstrapped over victims."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.optimize import isotonic_regression

Array = npt.NDArray[np.float64]

RESAMPLES = 2000
"""Bootstrap resamples of the victims."""


@dataclass(frozen=True)
class Crossing:
    """The position at which a falling curve reaches a level, with a 95% interval.

    `side` says where it lies: `inside` the measured positions, `before` the first one (the curve is below already
    there, `position` is the first) or `after` the last one (the curve is still above there, `position` is the last).
    `low` and `high` are infinite where the interval leaves the measured positions.
    """

    side: Literal["before", "inside", "after"]
    position: float
    low: float
    high: float


def crossing(positions: Array, values: Array, level: float) -> Crossing:
    """Where the mean over victims first falls to `level`.

    `positions` (K,) ascend from the weakest strength to the strongest; `values` (V, K) hold each victim's figure at
    each. The mean is made to fall by isotonic regression and taken as straight between positions. Victims are drawn
    with replacement (whole rows: strengths stay paired), with a fixed seed.
    """
    if len(positions) < 2 or values.shape[1] != len(positions) or len(values) == 0:
        raise ValueError("a crossing needs at least two positions and one victim with a value at each")
    found = _position(positions, values.mean(axis=0), level)
    random = np.random.default_rng(0)
    draws = random.integers(0, len(values), size=(RESAMPLES, len(values)))
    each = np.array([_position(positions, values[draw].mean(axis=0), level) for draw in draws])
    low, high = np.quantile(each, [0.025, 0.975], method="nearest") if len(values) > 1 else (np.nan, np.nan)
    if np.isinf(found):
        side: Literal["before", "after"] = "before" if found < 0 else "after"
        return Crossing(side, float(positions[0 if found < 0 else -1]), float(low), float(high))
    return Crossing("inside", float(found), float(low), float(high))


def bracket(positions: Array, mean: Array, level: float) -> tuple[float, float] | None:
    """The two neighbouring positions between which the isotonic mean falls to `level`; None outside of all."""
    falling = _falling(mean)
    if falling[0] <= level or falling[-1] > level:
        return None
    after = int(np.argmax(falling <= level))
    return float(positions[after - 1]), float(positions[after])


def _position(positions: Array, mean: Array, level: float) -> float:
    """-inf where the mean is below `level` from the first position on, inf where it never is."""
    falling = _falling(mean)
    if falling[0] <= level:
        return -np.inf
    if falling[-1] > level:
        return np.inf
    after = int(np.argmax(falling <= level))
    above, below = falling[after - 1], falling[after]
    share = (above - level) / (above - below)
    return float(positions[after - 1] + share * (positions[after] - positions[after - 1]))


def _falling(mean: Array) -> Array:
    fitted: Array = isotonic_regression(mean, increasing=False).x
    return fitted
