"""Intervals over victims, and over seeds where there are several: of a mean, and of a share.

docs/statistics.md says why these, and what they cover.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv, stdtrit  # `scipy.stats` takes seconds to import

FEWEST = 5
"""Victims below which a mean has no interval: too few to tell how far apart victims lie."""

FEWEST_SEEDS = 3
"""Seeds, from two on, below which nothing has an interval: too few to tell how far apart they lie."""

ALIKE = 0.3
"""The least correlation of two victims of one seed that shares of several seeds are taken to have."""

_TAILS = (0.025, 0.975)


Values = npt.NDArray[np.float64]


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


def mean_interval(
    values: Values, *, failed: float = 0.0, clusters: npt.NDArray[np.int64] | None = None
) -> Interval:
    """The mean of one value for each victim, and its 95% interval; none below `FEWEST` victims.

    Student's t of 97%, since that of 95% holds skewed means in 91% of samples only. Towards `failed`, what a victim
    gives whose attack comes to nothing (of a difference: none), it reaches at least as far as Student's t of 95% over
    the same victims and one more at `failed`: an attack that fails for one victim in ten fails for none of five in 59%
    of samples, and no spread of theirs tells of it. Values that are not finite are left out.

    `clusters` names each value's seed. With several, values of one are alike and the seeds are what is independent: the
    interval also reaches as far as Student's t of 97% over seeds, and there is none below `FEWEST_SEEDS`.
    """
    there = np.isfinite(values)
    finite = values[there]
    seeds = np.zeros(len(finite), dtype=np.int64) if clusters is None else clusters[there]
    count = len(np.unique(seeds))
    if len(finite) < FEWEST or 1 < count < FEWEST_SEEDS:
        return Interval(float(finite.mean()) if len(finite) else np.nan, np.nan, np.nan)
    alone = _over_victims(finite, failed)
    if count == 1:
        return alone
    arm = float(stdtrit(count - 1, 0.985)) * _clustered_error(finite, seeds)
    return Interval(alone.mean, min(alone.low, alone.mean - arm), max(alone.high, alone.mean + arm))


def _over_victims(finite: Values, failed: float) -> Interval:
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
    return _exact(share, victims)


def _exact(share: float, count: float) -> Interval:
    """Clopper and Pearson's interval of a share of `count` trials, which need be no whole number."""
    hits = share * count
    low = betaincinv(hits, count - hits + 1, _TAILS[0]) if hits > 0 else 0.0
    high = betaincinv(hits + 1, count - hits, _TAILS[1]) if hits < count else 1.0
    return Interval(share, float(low), float(high))


def clustered_share_interval(share: float, values: Values, clusters: npt.NDArray[np.int64]) -> Interval:
    """A share of images over victims of several seeds, and its 95% interval; none below `FEWEST_SEEDS` seeds.

    `values` are the victims' own shares. The exact interval is taken over as many victims as are worth as much as
    these, which are alike within a seed (Korn and Graubard, Survey Methodology 1998): their variance is that between
    seeds, and at least what victims with the correlation `ALIKE` would have, since few seeds often differ by luck less
    than they do in truth.
    """
    there = np.isfinite(values)
    values, clusters = values[there], clusters[there]
    seeds, sizes = np.unique(clusters, return_counts=True)
    if len(seeds) < FEWEST_SEEDS or np.isnan(share):
        return Interval(share, np.nan, np.nan)
    count = len(values)
    least = 1.0 + ALIKE * (float((sizes**2).sum()) / count - 1.0)
    independent = share * (1.0 - share) / count
    effect = _clustered_error(values, clusters) ** 2 / independent if independent > 0 else 0.0
    effect *= float(stdtrit(len(seeds) - 1, 0.975) / stdtrit(count - 1, 0.975)) ** 2
    return _exact(share, max(1.0, count / max(effect, least)))


def _clustered_error(values: Values, clusters: npt.NDArray[np.int64]) -> float:
    """The standard error of the mean of values that are alike within a cluster (Cochran, Sampling Techniques, 1977)."""
    seeds, which = np.unique(clusters, return_inverse=True)
    sums = np.bincount(which, weights=values - values.mean())
    count = len(seeds)
    return float(np.sqrt(count / (count - 1) * (sums**2).sum()) / len(values))


def _student(values: Values, quantile: float) -> Interval:
    mean, count = float(values.mean()), len(values)
    arm = float(stdtrit(count - 1, quantile) * values.std(ddof=1) / np.sqrt(count))
    return Interval(mean, mean - arm, mean + arm)
