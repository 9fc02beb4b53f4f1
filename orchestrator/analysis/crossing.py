"""Where a curve over a defense's strength falls to a level: isotonic, interpolated, between measured strengths.

Two things limit what is known of that place: how much victims differ, and how far apart strengths were measured.
Victims are resampled, and each resample counts with the two strengths between which it crosses, not with a point
between them: what the curve does in there was not measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.optimize import isotonic_regression
from scipy.special import ndtr, stdtrit

from orchestrator.analysis.intervals import FEWEST

Array = npt.NDArray[np.float64]

RESAMPLES = 2000
"""Resamples of the victims."""


@dataclass(frozen=True, kw_only=True)
class Ends:
    """The weaker and the stronger end of a stretch of positions; infinite where it leaves the measured ones."""

    weaker: float
    stronger: float


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """The position at which a falling curve reaches a level.

    `side` says where it lies: `inside` the measured positions, `before` the first one (the curve is below already
    there, `position` is the first) or `after` the last one (the curve is still above there, `position` is the last).
    `bracket` are the two neighbouring measured positions that it lies between. `victims` is the 95% interval that
    follows from the choice of victims alone, with the curve taken as straight between positions; `interval` is the hull
    of the brackets over it. Both are NaN where there are fewer than five victims.
    """

    side: Literal["before", "inside", "after"]
    position: float
    bracket: Ends
    victims: Ends
    interval: Ends

    def wide_gaps(self, positions: Array) -> list[Ends]:
        """The gaps between measured positions that widen the interval more than the choice of victims does.

        Without an interval that is the bracket alone; none where the curve does not cross inside the positions.
        """
        if self.side != "inside":
            return []
        if np.isnan(self.interval.weaker):
            return [self.bracket]
        # An end that is open is not narrowed by further strengths: what lies on its side is left out.
        victims, interval = self.victims, self.interval
        weaker_open, stronger_open = np.isinf(interval.weaker), np.isinf(interval.stronger)
        first = self.bracket.weaker if weaker_open else interval.weaker
        last = self.bracket.stronger if stronger_open else interval.stronger
        width = (self.position if stronger_open else victims.stronger) - (
            self.position if weaker_open else victims.weaker
        )
        return [
            Ends(weaker=float(weaker), stronger=float(stronger))
            for weaker, stronger in pairwise(positions)
            if first <= weaker and stronger <= last and stronger - weaker > width
        ]


def crossing(positions: Array, values: Array, level: float, *, shares: bool = False) -> Crossing:
    """Where the mean over victims first falls to `level`.

    `positions` (K,) ascend from the weakest strength to the strongest; `values` (V, K) hold each victim's figure at
    each. The mean is made to fall by isotonic regression and taken as straight between positions. Victims are drawn
    anew (whole rows: strengths stay paired), with a fixed seed. `shares` says that values are shares of successes,
    of which "0 of 16" leaves more open than victims drawn anew can show.
    """
    if len(positions) < 2 or values.shape[1] != len(positions) or len(values) == 0:
        raise ValueError("a crossing needs at least two positions and one victim with a value at each")
    found = _cross(positions, values.mean(axis=0), level)
    side: Literal["before", "inside", "after"] = "inside"
    if np.isinf(found[0]):
        side = "before" if found[0] < 0 else "after"
    return Crossing(
        side=side,
        position=float(np.clip(found[0], positions[0], positions[-1])),
        bracket=Ends(weaker=found[1], stronger=found[2]),
        **_intervals(positions, values, level, shares=shares),
    )


def _intervals(positions: Array, values: Array, level: float, *, shares: bool) -> dict[str, Ends]:
    """`victims` and `interval` of a crossing."""
    count = len(values)
    if count < FEWEST:
        nowhere = Ends(weaker=np.nan, stronger=np.nan)
        return {"victims": nowhere, "interval": nowhere}
    random = np.random.default_rng(0)
    if shares:
        means, tail = _shares(random, values), 0.025
    else:
        means, tail = _means(random, values), _tail(count)
    drawn = np.array([_cross(positions, mean, level) for mean in means])
    low = np.quantile(drawn, tail, axis=0, method="nearest")
    high = np.quantile(drawn, 1.0 - tail, axis=0, method="nearest")
    return {
        "victims": Ends(weaker=float(low[0]), stronger=float(high[0])),
        "interval": Ends(weaker=float(low[1]), stronger=float(high[2])),
    }


def _means(random: np.random.Generator, values: Array) -> Array:
    """Means (RESAMPLES, K) over victims drawn with replacement."""
    count = len(values)
    weights = random.multinomial(count, np.full(count, 1.0 / count), size=RESAMPLES) / count
    drawn: Array = weights @ values
    return drawn


def _tail(count: int) -> float:
    """The quantile of resamples that ends a 95% interval: percentile intervals of few values are too narrow.

    Expanded so that the interval of a normal mean is about Student's (Hesterberg, What Teachers Should Know About the
    Bootstrap, The American Statistician 2015).
    """
    return float(ndtr(-np.sqrt(count / (count - 1)) * stdtrit(count - 1, 0.975)))


def _shares(random: np.random.Generator, values: Array) -> Array:
    """Shares (RESAMPLES, K) over victims with random weights (the Bayesian bootstrap, Rubin 1981).

    Half a victim that always succeeds and half a one that never does are among them (Jeffreys' prior): at every
    strength that gives the beta distribution of a share, and none of 16 does not count as none at all.
    """
    count, strengths = values.shape
    weights = random.dirichlet([*np.ones(count), 0.5, 0.5], size=RESAMPLES)
    drawn: Array = weights @ np.vstack([values, np.ones(strengths), np.zeros(strengths)])
    return drawn


def _cross(positions: Array, mean: Array, level: float) -> tuple[float, float, float]:
    """Where the isotonic mean falls to `level`, and the two positions beside that.

    The first is -inf where it is below from the first position on, inf where it never is.
    """
    falling = isotonic_regression(mean, increasing=False).x
    if falling[0] <= level:
        return -np.inf, -np.inf, float(positions[0])
    if falling[-1] > level:
        return np.inf, float(positions[-1]), np.inf
    after = int(np.argmax(falling <= level))
    above, below = falling[after - 1], falling[after]
    weaker, stronger = float(positions[after - 1]), float(positions[after])
    share = float((above - level) / (above - below))
    return weaker + share * (stronger - weaker), weaker, stronger
