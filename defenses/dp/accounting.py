"""Privacy accounting: the noise that a budget needs, and the budget that a noise spends, both by dp-accounting.

Noise is counted as its multiplier: the standard deviation over the sensitivity. The library takes a second to import,
so it is imported where there is a budget.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dp_accounting import SelfComposedDpEvent


@lru_cache(maxsize=256)
def noise_multiplier(epsilon: float, delta: float, *, releases: int = 1, rate: float = 1.0) -> float:
    """The least multiplier with which `releases` Gaussian releases together are (epsilon, delta)-DP.

    Exact without sampling (Balle and Wang, ICML 2018; T releases are one of noise sigma / sqrt(T)). With a `rate`
    below 1 each release is of a Poisson sample, and its privacy loss distribution is composed (Koskela et al., AISTATS
    2020): a second or so, and never too little noise.
    """
    from dp_accounting import LowerEndpointAndGuess, calibrate_dp_mechanism, get_sigma_gaussian
    from dp_accounting.pld import PLDAccountant

    plain = float(get_sigma_gaussian(epsilon, delta)) * math.sqrt(releases)
    if rate == 1.0:
        return plain
    # The central limit of sampled releases (Bu et al. 2020) is near enough to begin at; far below it the distribution
    # would take gigabytes.
    guess = 1.0 / math.sqrt(math.log1p((math.sqrt(releases) / (rate * plain)) ** 2))
    return float(
        calibrate_dp_mechanism(
            lambda: PLDAccountant(value_discretization_interval=_grid(epsilon)),
            lambda multiplier: _sampled(multiplier, releases, rate),
            epsilon,
            delta,
            LowerEndpointAndGuess(0.5 * min(guess, plain), min(guess, plain)),
            tol=1e-4 * min(guess, plain),
        )
    )


@lru_cache(maxsize=256)
def epsilon_spent(multiplier: float, delta: float, *, releases: int = 1, rate: float = 1.0) -> float:
    """The epsilon of `releases` Gaussian releases with this noise multiplier; the inverse of `noise_multiplier`."""
    if rate == 1.0:
        from dp_accounting import get_epsilon_gaussian

        return float(get_epsilon_gaussian(multiplier / math.sqrt(releases), delta))
    coarse = _sampled_epsilon(multiplier, delta, releases, rate, grid=_COARSE)
    if _grid(coarse) == _COARSE:
        return coarse
    return _sampled_epsilon(multiplier, delta, releases, rate, grid=_FINE)


def composed_epsilon(epsilon: float, delta: float, *, releases: int) -> float:
    """The epsilon of so many Gaussian releases that have `epsilon` each, all of them at the same delta.

    Exact, without amplification by sampling.
    """
    return epsilon_spent(noise_multiplier(epsilon, delta), delta, releases=releases)


def replace_one_epsilon(epsilon: float, delta: float) -> float:
    """The epsilon at twice the sensitivity of Gaussian releases that have `epsilon` in all, at the same delta.

    So it is under `replace_one` where `epsilon` is under `zero_out`. Exact, without amplification by sampling.
    """
    return epsilon_spent(noise_multiplier(epsilon, delta) / 2.0, delta)


_COARSE, _FINE = 1e-3, 1e-4
"""Steps of privacy loss; both round to the safe side, and the fine one takes ten times as long."""


def _grid(epsilon: float) -> float:
    """The steps that are fine enough for this epsilon: a thousandth of it, or less."""
    return _COARSE if epsilon >= 1.0 else _FINE


def _sampled(multiplier: float, releases: int, rate: float) -> SelfComposedDpEvent:
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent

    return SelfComposedDpEvent(PoissonSampledDpEvent(rate, GaussianDpEvent(multiplier)), releases)


def _sampled_epsilon(multiplier: float, delta: float, releases: int, rate: float, *, grid: float) -> float:
    from dp_accounting.pld import PLDAccountant

    accountant = PLDAccountant(value_discretization_interval=grid)
    accountant.compose(_sampled(multiplier, releases, rate))
    return float(accountant.get_epsilon(delta))
