"""What the singular values of a fully connected layer's gradient tell: how many images there are, and how much noise.

Each image adds a product of one error and one input, so without noise the rank is the number of images, up to the
layer's smaller side. Independent noise of deviation s on every number of an (m, n) matrix adds singular values that
spread between s (sqrt(n) - sqrt(m)) and s (sqrt(n) + sqrt(m)) by the law of Marchenko and Pastur (1967): its bulk
gives s, and what is above its upper end is signal (Gavish and Donoho 2014, arXiv:1305.5870).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from fl_core.base.device import exact


@dataclass(frozen=True, kw_only=True)
class SpectrumLimits:
    """Where rounding ends and noise begins."""

    rounding: float = 3e-6
    """Singular values below this share of the largest are rounding: float32 has 6e-8, for each of many that add up."""
    full: float = 0.9
    """A rank of this share of the smaller side is full: noise on a square matrix has some values near 0."""
    least_side: int = 16
    """Matrices with a smaller side have no bulk to read noise off."""
    above: float = 1.1
    """Values above this multiple of the bulk's upper end are signal; noise alone passes it by some percent."""
    alike: float = 0.25
    """The bulk is that of independent noise where its quartiles differ from the law's by at most this share."""
    subtraction: float = 4e-7
    """Noise of at most this share of the weights' own size is what float32 loses between two sets of weights."""


SPECTRUM_LIMITS = SpectrumLimits()
"""The limits in force."""


@dataclass(frozen=True, kw_only=True)
class Spectrum:
    """What a matrix is made of: `rank` products above rounding and noise, and independent noise of deviation `sigma`.

    `full` says that nothing separates signal from the rest, so that the rank tells nothing.
    """

    rank: int
    sigma: float
    full: bool


def spectrum(matrix: Tensor, limits: SpectrumLimits = SPECTRUM_LIMITS) -> Spectrum:
    """What `matrix` (m, n) is made of."""
    small, large = sorted(matrix.shape)
    values = _singular_values(matrix)
    rank = int((values > limits.rounding * values[0]).sum()) if values[0] > 0 else 0
    if rank < limits.full * small:
        return Spectrum(rank=rank, sigma=0.0, full=False)
    if small < limits.least_side:
        return Spectrum(rank=rank, sigma=0.0, full=True)
    quartiles = np.array(_law(small / large)) * math.sqrt(large)
    # A few images are the largest values; the lower half is noise where there is any.
    lower, middle = np.quantile(values, [0.25, 0.5])
    sigma = float(middle / quartiles[1])
    alike = abs(lower / (sigma * quartiles[0]) - 1) <= limits.alike
    edge = limits.above * sigma * (math.sqrt(small) + math.sqrt(large))
    signal = int((values > edge).sum())
    if not alike or signal > small // 2:
        return Spectrum(rank=rank, sigma=0.0, full=True)
    return Spectrum(rank=signal, sigma=sigma, full=False)


def above(matrix: Tensor, sigma: float | Tensor, limits: SpectrumLimits = SPECTRUM_LIMITS) -> int:
    """How many singular values of `matrix` (m, n) are above what errors of deviation `sigma` alone would have.

    Where `sigma` is (m, n), each number's own, the largest singular value of errors is about the largest norm of a row
    plus that of a column (Bandeira and van Handel, 2016); for one deviation that is the same bound.
    """
    if isinstance(sigma, Tensor):
        edge = limits.above * float(sigma.norm(dim=1).max() + sigma.norm(dim=0).max())
    else:
        edge = limits.above * sigma * (math.sqrt(len(matrix)) + math.sqrt(matrix.shape[1]))
    return int((_singular_values(matrix) > edge).sum())


def _singular_values(matrix: Tensor) -> np.ndarray:
    """In descending order."""
    numbers = exact(
        matrix if len(matrix) <= matrix.shape[1] else matrix.mT, "the singular values of a gradient"
    )
    # From inner products: they keep singular values down to 1e-8 of the largest, which is less than rounding.
    found: np.ndarray = torch.linalg.eigvalsh(numbers @ numbers.mT).clamp_min(0.0).sqrt().flip(0).numpy()
    return found


@cache
def _law(ratio: float) -> tuple[float, float]:
    """Lower quartile and median of the singular values over sqrt(n) for noise of deviation 1 and m / n = `ratio`."""
    low, high = (1 - math.sqrt(ratio)) ** 2, (1 + math.sqrt(ratio)) ** 2
    x = np.linspace(low, high, 20001)[1:-1]
    density = np.sqrt((high - x) * (x - low)) / x
    share = np.cumsum(density) / density.sum()
    first, second = (math.sqrt(float(np.interp(at, share, x))) for at in (0.25, 0.5))
    return first, second
