"""Differences between figures of the same victims: permutation test, Holm's correction, ranks with intervals.

Functions from frame to frame. A frame of figures has one row for each victim, with the index `(sweep_seed, victim)`,
and one column for each thing that is compared; NaN stands for a victim that has no figure there.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from orchestrator.analysis.intervals import Interval, mean_interval

Values = npt.NDArray[np.float64]
Whole = npt.NDArray[np.int64]

EXACT = 16
"""Independent units up to which every assignment of signs is counted; with more of them `DRAWS` are drawn."""
DRAWS = 19_999
"""Random assignments of signs, or of victims to sides, beside the one that was observed."""
LEVEL = 0.05
"""The error rate of ranks: over all comparisons of one column with the others."""

_BLOCK = 4096
_TIE = 1e-9


def paired(figures: pd.DataFrame, pairs: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """The difference `one` minus `other` of each pair of columns over the victims that both have.

    Columns of the result: `one`, `other`, `n` (victims), `seeds`, `difference` with `low` and `high` (the interval of
    `mean_interval`), `p` (two-sided, `sign_flips`) and `p_holm` (`holm` over these pairs). Intervals are not corrected.
    """
    seeds = _seeds(figures)
    columns = {str(name): np.asarray(figures[name], dtype=np.float64) for name in figures}
    apart = [columns[one] - columns[other] for one, other in pairs]
    found = []
    for (one, other), values in zip(pairs, apart, strict=True):
        there = np.isfinite(values)
        between = mean_interval(values, clusters=seeds)
        found.append((one, other, int(there.sum()), len(np.unique(seeds[there])), *_ends(between)))
    table = pd.DataFrame(found, columns=["one", "other", "n", "seeds", "difference", "low", "high"])
    p = sign_flips(np.stack(apart, axis=1), seeds) if apart else np.empty(0)
    return table.assign(p=p, p_holm=holm(p))


def unpaired(
    one: pd.Series[float], other: pd.Series[float], *, failed: tuple[float, float] = (0.0, 0.0)
) -> pd.DataFrame:
    """The difference of two means over different victims, as one row like those of `paired`.

    Both are indexed as frames of figures are. The interval joins those of the two means (Zou and Donner, Statistics in
    Medicine 2008: MOVER), so it is as wide towards failures as theirs; `failed` are what failed victims give. `p` is of
    a permutation test: victims exchange sides, and where both have several seeds the seeds do, `DRAWS` times or in
    every way where that is fewer; NaN where a single seed meets several. `n` is the smaller side's number of victims.
    """
    sides = [found[np.isfinite(found)] for found in (one, other)]
    a, b = (
        mean_interval(np.asarray(found, dtype=np.float64), failed=worst, clusters=_seeds(found))
        for found, worst in zip(sides, failed, strict=True)
    )
    mean = a.mean - b.mean
    low = mean - float(np.hypot(a.mean - a.low, b.high - b.mean))
    high = mean + float(np.hypot(a.high - a.mean, b.mean - b.low))
    counts = [len(np.unique(_seeds(found))) for found in sides]
    table = pd.DataFrame(
        [(min(map(len, sides)), min(counts), mean, low, high, _exchanged(sides[0], sides[1], counts))],
        columns=["n", "seeds", "difference", "low", "high", "p"],
    )
    return table.assign(p_holm=table["p"])


def sign_flips(differences: Values, clusters: Whole) -> Values:
    """Two-sided p for each column of `differences` (victims, columns): are the two sides of a victim exchangeable?

    If they are, each difference could as well have the other sign. Victims of one seed are alike and change their
    signs together, so with several `clusters` the seeds count and not the victims. Up to `EXACT` units all signs are
    counted, and p is exact (Fisher, The Design of Experiments 1935); else p = (b + 1) / (draws + 1), which is valid
    too (Phipson and Smyth, Stat. Appl. Genet. Mol. Biol. 2010). A column without any difference gives NaN.
    """
    there = np.isfinite(differences)
    filled = np.where(there, differences, 0.0)
    names, codes = np.unique(clusters, return_inverse=True)
    if len(names) > 1:
        sums = np.zeros((len(names), differences.shape[1]))
        np.add.at(sums, codes, filled)
    else:
        sums = filled
    units = len(sums)
    observed = np.abs(sums.sum(axis=0))
    # A victim that a column lacks adds 0 whatever its sign, so the count of signs stays in proportion.
    least = observed - _TIE * np.abs(sums).sum(axis=0)
    exact = units <= EXACT
    beyond = np.zeros(differences.shape[1])
    total = 0
    for signs in _every_sign(units) if exact else _random_signs(units):
        beyond += (np.abs(signs @ sums) >= least).sum(axis=0)
        total += len(signs)
    p = beyond / total if exact else (beyond + 1) / (total + 1)
    return np.where(there.any(axis=0), p, np.nan)


def holm(p: Values) -> Values:
    """Holm's correction (Scand. J. Statist. 1979) of p over all of them that are not NaN."""
    known = np.flatnonzero(~np.isnan(p))
    corrected = np.full(len(p), np.nan)
    order = known[np.argsort(p[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * factors))
    return corrected


def ranks(figures: pd.DataFrame) -> pd.DataFrame:
    """Each column's rank by its mean, the least first, with a 95% interval.

    A rank can be no better than the number of columns that are shown to lie below it, and no worse than what those
    leave that are shown to lie above it: `sign_flips` against every other column with `holm` over them, at `LEVEL`
    (the interval of one rank; Mogstad, Romano, Shaikh and Wilhelm, Review of Economic Studies 2024). Columns of the
    result: `name`, `n`, `mean`, `rank`, `rank_low`, `rank_high`, and `alike`, how many others it is not told from.
    """
    names = [str(name) for name in figures]
    means = figures.mean().to_numpy()
    pairs = list(combinations(range(len(names)), 2))
    columns = figures.to_numpy(dtype=np.float64)
    p = np.ones((len(names), len(names)))
    if pairs:
        apart = np.stack([columns[:, i] - columns[:, j] for i, j in pairs], axis=1)
        for (i, j), found in zip(pairs, sign_flips(apart, _seeds(figures)), strict=True):
            p[i, j] = p[j, i] = found
    rows = []
    for i, name in enumerate(names):
        others = [j for j in range(len(names)) if j != i]
        told = holm(p[i, others]) <= LEVEL
        below = sum(means[j] < means[i] for j, apart_ in zip(others, told, strict=True) if apart_)
        above = int(told.sum()) - below
        rank = 1 + int((means[others] < means[i]).sum())
        rows.append(
            {
                "name": name,
                "n": int(np.isfinite(columns[:, i]).sum()),
                "mean": means[i],
                "rank": rank,
                "rank_low": 1 + int(below),
                "rank_high": len(names) - above,
                "alike": len(others) - int(told.sum()),
            }
        )
    columns_ = ["name", "n", "mean", "rank", "rank_low", "rank_high", "alike"]
    table = pd.DataFrame(rows, columns=columns_)
    return table.sort_values(["rank", "name"], kind="stable").reset_index(drop=True)


def least_p(units: int, comparisons: int) -> float:
    """The least p that `holm` can leave of so many comparisons over so many units, with all signs counted."""
    alone = 2.0 ** -(units - 1) if units <= EXACT else 1.0 / (DRAWS + 1)
    return min(1.0, alone * comparisons)


def _seeds(figures: pd.DataFrame | pd.Series[float]) -> Whole:
    return np.asarray(figures.index.get_level_values("sweep_seed"), dtype=np.int64)


def _ends(found: Interval) -> tuple[float, float, float]:
    return found.mean, found.low, found.high


def _every_sign(units: int) -> list[Values]:
    """All assignments of signs to so many units, but for their mirror images, which give the same absolute sums."""
    numbers = np.arange(2 ** max(0, units - 1))
    bits = (numbers[:, None] >> np.arange(units)) & 1
    return [np.asarray(2.0 * bits - 1.0, dtype=np.float64)]


def _random_signs(units: int) -> list[Values]:
    random = np.random.default_rng(0)
    sizes = [_BLOCK] * (DRAWS // _BLOCK) + [DRAWS % _BLOCK]
    return [random.choice(np.array([-1.0, 1.0]), size=(size, units)) for size in sizes]


def _exchanged(first: pd.Series[float], second: pd.Series[float], seeds: Sequence[int]) -> float:
    """The two-sided p of a difference of means when victims, or seeds where there are several, exchange sides."""
    from scipy.stats import (
        permutation_test,  # Takes seconds to import, and only folders that share no victim need it.
    )

    units: list[npt.NDArray[Any]] = [np.asarray(found) for found in (first, second)]
    if max(seeds) > 1:
        units = [np.asarray(found.groupby(level="sweep_seed").mean()) for found in (first, second)]
    if min(map(len, units)) < 2:
        return float("nan")
    found = permutation_test(
        units,
        lambda a, b, axis: a.mean(axis=axis) - b.mean(axis=axis),
        vectorized=True,
        n_resamples=DRAWS,
        batch=_BLOCK,
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue)
