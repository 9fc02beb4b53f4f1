"""An empirical lower bound on epsilon: how well a mechanism's releases tell whether a canary is in the data.

A promise of (epsilon, delta) bounds how much likelier any event can be with the canary than without it, and the other
way round. So an event that is seen more often than that in many independent releases refutes it (Jagielski, Ullman and
Oprea, NeurIPS 2020; Nasr et al., S&P 2021). A bound below the claim proves nothing; one above it proves a mistake.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

from fl_core.base.types import Config, Tensors, require

Release = Callable[[bool, int], Tensors]
"""What one run of a mechanism releases: with the canary in the data, or with zeros in its place. The second argument is
the run's number; no two runs may share randomness."""

Scores = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Audit(Config):
    """How an audit is made: `runs` releases with the canary and as many without.

    On the first half of each the event is chosen, on the second it is counted. `confidence` is how sure the bound is.
    """

    runs: int = 2000
    confidence: float = 0.95

    def __post_init__(self) -> None:
        require(self.runs >= 2, self, "runs", "at least 2")
        require(0 < self.confidence < 1, self, "confidence", "in (0, 1)")

    def __call__(self, release: Release, direction: Tensors, *, delta: float) -> float:
        """The bound at `delta` on the epsilon of `release`, from its projections on `direction`, the canary's own.

        For Gaussian noise no test tells more than that projection.
        """
        without, within = (
            np.array([projection(release(present, run), direction) for run in runs])
            for present, runs in ((False, range(self.runs)), (True, range(self.runs, 2 * self.runs)))
        )
        return lower_bound(within, without, delta=delta, confidence=self.confidence)


def projection(released: Tensors, direction: Tensors) -> float:
    """The inner product over the tensors that `direction` names."""
    return sum(float((released[name].double() * value.double()).sum()) for name, value in direction.items())


def lower_bound(within: Scores, without: Scores, *, delta: float, confidence: float) -> float:
    """With probability `confidence` at most the epsilon at `delta` of what gave the scores (each half is (n,)); >= 0.

    The event is a score above a threshold, counted for the canary, or one below it, counted against. It is chosen on
    half the scores by the bound that these would give. Scores with the canary are expected to be the higher ones. How
    often it happens in the other half is bounded exactly (Clopper and Pearson, 1934), from below on one side and from
    above on the other.
    """
    halves = [(part[: len(part) // 2], part[len(part) // 2 :]) for part in (within, without)]
    (chosen_in, fresh_in), (chosen_out, fresh_out) = halves
    thresholds = np.unique(np.quantile(np.concatenate([chosen_in, chosen_out]), np.linspace(0.0, 1.0, 401)))
    risk = (1.0 - confidence) / 2.0
    for_it = _epsilons(_above(chosen_in, thresholds), _above(chosen_out, thresholds), delta, risk)
    against = _epsilons(_above(-chosen_out, -thresholds), _above(-chosen_in, -thresholds), delta, risk)
    if for_it.max() >= against.max():
        at = thresholds[[int(for_it.argmax())]]
        found = _epsilons(_above(fresh_in, at), _above(fresh_out, at), delta, risk)
    else:
        at = -thresholds[[int(against.argmax())]]
        found = _epsilons(_above(-fresh_out, at), _above(-fresh_in, at), delta, risk)
    return max(0.0, float(found[0]))


def _above(scores: Scores, thresholds: Scores) -> tuple[Scores, int]:
    """How many scores exceed each threshold, and how many there are."""
    return len(scores) - np.searchsorted(np.sort(scores), thresholds, side="right").astype(float), len(scores)


def _epsilons(often: tuple[Scores, int], seldom: tuple[Scores, int], delta: float, risk: float) -> Scores:
    """log((p - delta) / q), for p at least what `often` counts and q at most what `seldom` does; -inf if p <= delta."""
    (hits, total), (misses, others) = often, seldom
    least = np.where(hits > 0, betaincinv(np.maximum(hits, 1.0), total - hits + 1.0, risk), 0.0)
    most = np.where(
        misses < others, betaincinv(misses + 1.0, np.maximum(others - misses, 1.0), 1.0 - risk), 1.0
    )
    with np.errstate(divide="ignore"):
        return np.where(least > delta, np.log(np.maximum(least - delta, 0.0) / most), -math.inf)
