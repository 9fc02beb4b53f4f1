"""What a private mechanism leaks at least: a lower bound on its epsilon from attacks on many of its releases.

A mechanism that is (epsilon, delta)-DP lets nobody tell two neighbours apart with a false positive rate a and a false
negative rate b unless a >= (1 - delta - b) / exp(epsilon), and likewise with a and b exchanged (Kairouz et al., ICML
2015). So rates that were measured bound epsilon from below (Jagielski et al., NeurIPS 2020; Nasr et al., S&P 2021). A
bound above the claim proves the claim wrong; one below it proves nothing more.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

Scores = NDArray[np.floating]


def epsilon_at_least(
    absent: Scores, present: Scores, *, delta: float, confidence: float = 0.95, thresholds: int = 100
) -> float:
    """A lower bound on epsilon, at least 0, that holds with probability `confidence`.

    `absent` and `present` are a distinguisher's scores of independent releases of two neighbours, higher ones for the
    second. The first half of each chooses among so many `thresholds`, the second half measures: a threshold that was
    chosen by what it measures would claim too much. Raises `ValueError` for fewer than two scores of either.
    """
    if min(len(absent), len(present)) < 2:
        raise ValueError("An audit needs at least two releases of each neighbour.")
    chosen, measured = [(part(absent), part(present)) for part in (_first_half, _second_half)]
    candidates = np.quantile(np.concatenate(chosen), np.linspace(0.0, 1.0, thresholds + 2)[1:-1])
    bounds = [_bound(*chosen, threshold, delta=delta, confidence=confidence) for threshold in candidates]
    best = float(candidates[int(np.argmax(bounds))])
    return max(0.0, _bound(*measured, best, delta=delta, confidence=confidence))


def most_likely(successes: int, trials: int, confidence: float) -> float:
    """The upper end of the one-sided exact interval of a rate (Clopper and Pearson 1934)."""
    if successes == trials:
        return 1.0
    return float(beta.ppf(confidence, successes + 1, trials - successes))


def _bound(absent: Scores, present: Scores, threshold: float, *, delta: float, confidence: float) -> float:
    # Both rates are used together, so each may be wrong half as often.
    each = 1.0 - (1.0 - confidence) / 2.0
    false_positive = most_likely(int((absent > threshold).sum()), len(absent), each)
    false_negative = most_likely(int((present <= threshold).sum()), len(present), each)
    ratios = (
        (1.0 - delta - false_negative) / false_positive,
        (1.0 - delta - false_positive) / false_negative,
    )
    return math.log(max(*ratios, 1e-300))


def _first_half(scores: Scores) -> Scores:
    return scores[: len(scores) // 2]


def _second_half(scores: Scores) -> Scores:
    return scores[len(scores) // 2 :]
