"""From what is seen of an answer to its PSNR: a regression on simulated answers, with conformal intervals.

What is seen (`orchestrator.calibration.seen`) predicts PSNR by ridge regression (Hoerl and Kennard 1970) on answers
of the same outcome. Each simulated client is predicted from the others, and what that misses gives the interval: the
CV+ of Barber et al. (2021, arXiv:1905.02928) with one fold for each client, as its images are well or badly
reconstructed together. Nothing is fitted to the answers that are predicted. The interval covers as promised where
these are drawn as the simulated ones are. Where hardly any simulated attack ended as the one in question, there is
nothing to fit: the interval is then the whole range of what was simulated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from orchestrator.calibration.seen import Seen

Array = npt.NDArray[np.float64]

EXACT = 60.0
"""In dB: better answers are taken for this. An image that is only rounded to 8 bits is 58.9 dB from itself."""


@dataclass(frozen=True, kw_only=True)
class PredictionLimits:
    """How predictions are made."""

    level: float = 0.9
    """The share of answers whose PSNR the interval is meant to hold."""
    least: int = 5
    """So many simulated clients of the same outcome are needed for a prediction from what is seen, or all of fewer."""
    penalties: tuple[float, ...] = (0.005, 0.05, 0.5, 5.0, math.inf)
    """Of ridge regression, over the features' variance; the one that misses least is taken. Infinite: no feature."""
    widest: float = 3.0
    """In standard deviations: features further from their mean are taken for this far."""


PREDICTION_LIMITS = PredictionLimits()
"""The limits in force."""


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """One simulated image: the client's number, what is seen of its reconstruction, and the PSNR in dB."""

    client: int
    seen: Seen
    psnr: float
    prior: float
    """The PSNR of the mean public image."""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """A prediction of PSNR in dB, and an interval that holds the PSNR with probability `level`.

    No number is above `EXACT`, which stands for itself and more. `alike` is from how many simulated clients the
    prediction comes. None: too few of them ended alike, and the interval is the range of all that was simulated.
    """

    psnr: float
    low: float
    high: float
    level: float
    alike: int | None

    @classmethod
    def mean(cls, several: Sequence[Expected]) -> Expected:
        """The means of predictions for one answer's images, and of their intervals' ends."""
        psnr, low, high = (
            sum(getattr(each, name) for each in several) / len(several) for name in ("psnr", "low", "high")
        )
        return replace(several[0], psnr=psnr, low=low, high=high)


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Ridge regression: a prediction is `level` + (features - `centre`) / `spread` @ `slopes`, within `lowest` and
    `highest` of the features over their spread."""

    level: float
    centre: Array
    spread: Array
    slopes: Array
    lowest: Array
    highest: Array

    @classmethod
    def of(cls, features: Array, values: Array, limits: PredictionLimits = PREDICTION_LIMITS) -> Fit:
        """The fit to `features` (N, F) and `values` (N,), with the penalty whose left-out residuals are smallest."""
        centre, spread = features.mean(0), features.std(0)
        spread = np.where(spread > 0, spread, 1.0)
        known = ((features - centre) / spread).clip(-limits.widest, limits.widest)
        known_centre, level = known.mean(0), float(values.mean())
        moved, left = known - known_centre, values - level
        square = moved.T @ moved
        best, slopes = math.inf, np.zeros(features.shape[1])
        for penalty in limits.penalties:
            found, missed = _ridge(moved, left, square, penalty)
            if missed < best:
                best, slopes = missed, found
        return cls(
            level=level - float(known_centre @ slopes),
            centre=centre,
            spread=spread,
            slopes=slopes,
            lowest=known.min(0),
            highest=known.max(0),
        )

    def __call__(self, features: Array) -> Array:
        """Predictions (N,) for features (N, F), none beyond those of the fit."""
        within = ((features - self.centre) / self.spread).clip(self.lowest, self.highest)
        return self.level + within @ self.slopes


def _ridge(moved: Array, left: Array, square: Array, penalty: float) -> tuple[Array, float]:
    """Slopes, and the mean absolute residual of each value where it is left out of the fit (Allen 1974)."""
    count, width = moved.shape
    if math.isinf(penalty) or count < 3:
        slopes, own = np.zeros(width), np.full(count, 1.0 / count)
    else:
        inverse = np.linalg.inv(square + penalty * count * np.eye(width))
        slopes, own = inverse @ moved.T @ left, 1.0 / count + np.einsum("ni,ij,nj->n", moved, inverse, moved)
    return slopes, float((np.abs(left - moved @ slopes) / (1.0 - own).clip(1e-6)).mean())


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """Fits that leave out one simulated client each, and what they miss of its images."""

    fits: tuple[Fit, ...]
    missed: tuple[Array, ...]
    limits: PredictionLimits

    @classmethod
    def of(cls, simulated: Sequence[Simulated], limits: PredictionLimits = PREDICTION_LIMITS) -> Predictor:
        """From simulated images of two clients or more."""
        values = np.array([min(each.psnr, EXACT) for each in simulated])
        clients = np.array([each.client for each in simulated])
        features = np.array([each.seen.features for each in simulated])
        fits, missed = [], []
        for client in sorted(set(clients.tolist())):
            own = clients == client
            fit = Fit.of(features[~own], values[~own], limits)
            fits.append(fit)
            missed.append(values[own] - fit(features[own]))
        return cls(fits=tuple(fits), missed=tuple(missed), limits=limits)

    def __call__(self, seen: Seen) -> Expected:
        """The PSNR of what is seen."""
        features = np.array([seen.features])
        likely = [fit(features) + missed for fit, missed in zip(self.fits, self.missed, strict=True)]
        middle, low, high, level = quantiles(
            np.sort(np.concatenate(likely)), len(self.fits), self.limits.level
        )
        return Expected(
            psnr=min(middle, EXACT),
            low=min(low, EXACT),
            high=min(high, EXACT),
            level=level,
            alike=len(self.fits),
        )


def predict(
    simulated: Sequence[Simulated], seen: Sequence[Seen], limits: PredictionLimits = PREDICTION_LIMITS
) -> list[Expected]:
    """The PSNR of each image of one answer, of which this is `seen`, from `simulated` images."""
    if not seen:
        return []
    outcome = seen[0].outcome
    same = [each for each in simulated if each.seen.outcome == outcome]
    clients, alike = (len({each.client for each in images}) for images in (simulated, same))
    if alike < min(limits.least, max(clients, 2)):
        if outcome == "prior":
            return [_of_mean_image(simulated, limits)] * len(seen)
        return [_of_few(simulated, same, limits)] * len(seen)
    predictor = Predictor.of(same, limits)
    return [predictor(each) for each in seen]


def _of_mean_image(simulated: Sequence[Simulated], limits: PredictionLimits) -> Expected:
    """What the mean public image reaches, which every simulated client tells whatever its attack found."""
    clients = len({each.client for each in simulated})
    middle, low, high, level = quantiles(np.sort([each.prior for each in simulated]), clients, limits.level)
    return Expected(psnr=middle, low=low, high=high, level=level, alike=clients)


def _of_few(simulated: Sequence[Simulated], same: Sequence[Simulated], limits: PredictionLimits) -> Expected:
    """The median of the `same` outcome's few values, or of the mean image's; the range of all that was simulated."""
    reached = [min(each.psnr, EXACT) for each in simulated]
    priors = [each.prior for each in simulated]
    likely = [min(each.psnr, EXACT) for each in same] or priors
    return Expected(
        psnr=float(np.median(likely)),
        low=min(*reached, *priors),
        high=max(*reached, *priors),
        level=limits.level,
        alike=None,
    )


def quantiles(values: Array, clients: int, level: float) -> tuple[float, float, float, float]:
    """Median of sorted `values`, an interval for one more of the same kind, and the probability that it holds that.

    With too few `clients` for `level` the probability is (n - 1) / (n + 1), which the whole range of one value from
    each of n clients holds. Of clients with several values, equally many each, the ends are those at which the
    interval holds as much both where a client's values are all the same and where they are independent.
    """
    count = len(values)
    held = min(level, (clients - 1) / (clients + 1))
    # Rounding must not take 1 for a little less.
    rank = max(1, math.floor((1.0 - held) / 2.0 * (count + 1) + 1e-9))
    middle = (values[(count - 1) // 2] + values[count // 2]) / 2.0
    return float(middle), float(values[rank - 1]), float(values[count - rank]), held
