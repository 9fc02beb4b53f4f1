"""Intervals over victims: of a mean, and of a share. docs/statistics.md says why these, and what they cover."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv, stdtrit  # `scipy.stats` takes seconds to import

FEWEST = 5
"""Victims below which a mean has no interval: too few to tell how far apart victims lie."""

_TAILS = (0.025, 0.975)


@dataclass(frozen=True)
class Interval:
    """A mean or a share with its 95% interval; NaN bounds where there is none."""

    mean: float
    low: float
    high: float

    @property
    def measured(self) -> bool:
        """Whether there is a mean."""
        return not np.isnan(self.mean)

    @property
    def bounded(self) -> bool:
        """Whether there are bounds."""
        return not (np.isnan(self.low) or np.isnan(self.high))

    @property
    def reversed(self) -> Interval:
        """Of a difference, that the other way round."""
        return Interval(-self.mean, -self.high, -self.low)


NOTHING = Interval(np.nan, np.nan, np.nan)
"""Where nothing was measured."""


def mean_interval(values: npt.NDArray[np.float64], *, failed: float = 0.0) -> Interval:
    """The mean of one value for each victim, and its 95% interval; none below `FEWEST` victims.

    Student's t of 97%, since that of 95% holds skewed means in 91% of samples only. Towards `failed`, what a victim
    gives whose attack comes to nothing (of a difference: none), it reaches at least as far as Student's t of 95% over
    the same victims and one more at `failed`: an attack that fails for one victim in ten fails for none of five in 59%
    of samples, and no spread of theirs tells of it. Values that are not finite are left out.
    """
    finite = values[np.isfinite(values)]
    if len(finite) < FEWEST:
        return Interval(float(finite.mean()) if len(finite) else np.nan, np.nan, np.nan)
    measured, roomy = _student(finite, 0.985), _student(np.append(finite, failed), 0.975)
    low = np.fmin(measured.low, roomy.low) if failed < measured.mean else measured.low
    high = np.fmax(measured.high, roomy.high) if failed > measured.mean else measured.high
    return Interval(measured.mean, float(low), float(high))


def share_interval(share: float, victims: int) -> Interval:
    """A share of images, and its exact 95% interval (Clopper and Pearson, Biometrika 1934) over so many victims.

    `share` is the mean of the victims' own shares. With several images a victim `share * victims` is no whole number;
    the bounds are then those of the beta distributions between the whole ones, as if each victim's images came back
    all or none, which is the widest that shares of victims can spread.
    """
    if victims == 0 or np.isnan(share):
        return Interval(share, np.nan, np.nan)
    hits = share * victims
    low = betaincinv(hits, victims - hits + 1, _TAILS[0]) if hits > 0 else 0.0
    high = betaincinv(hits + 1, victims - hits, _TAILS[1]) if hits < victims else 1.0
    return Interval(share, float(low), float(high))


def _student(values: npt.NDArray[np.float64], quantile: float) -> Interval:
    mean, count = float(values.mean()), len(values)
    arm = float(stdtrit(count - 1, quantile) * values.std(ddof=1) / np.sqrt(count))
    return Interval(mean, mean - arm, mean + arm)
