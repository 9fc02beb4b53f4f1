"""How much of one thing there is beside another: squared norms and their ratio in dB."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

TINY = 1e-30
"""What a divisor is at least where it may be 0: any other number of float32 that means something is larger."""
EXACT_DB = 150.0
"""What an exact reconstruction, of infinite PSNR, counts as in a mean: about the best that float32 pixels allow."""
FAR = 100
"""Numbers are scaled by powers of two up to this one, which is exact, so that float32 holds their squares."""


def energy(tensor: Tensor) -> float:
    """The squared L2 norm, of any finite float32 numbers: NaN or infinite only where one of them is."""
    if not tensor.numel():
        return 0.0
    power = math.frexp(float(tensor.abs().max()))[1]
    power = max(-FAR, min(FAR, power))
    return float((tensor * 2.0**-power).square().sum()) * 4.0**power


def scaled(tensor: Tensor, factor: float) -> Tensor:
    """`tensor` times a `factor` in (0, 1], which may be smaller than float32 can hold."""
    power = max(-FAR, min(0, math.frexp(factor)[1]))
    return tensor * 2.0**power * (factor * 2.0**-power)


def decibels(noise: float, signal: float) -> float:
    """The ratio of two energies in dB; infinite without a signal, minus infinite without noise."""
    if not noise or not signal:
        return -math.inf if signal else math.inf
    return 10.0 * (math.log10(noise) - math.log10(signal))
