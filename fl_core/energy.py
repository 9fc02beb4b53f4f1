"""How much of one thing there is beside another: squared norms and their ratio in dB."""

from __future__ import annotations

import math

from torch import Tensor


def energy(tensor: Tensor) -> float:
    """The squared L2 norm."""
    return float(tensor.square().sum())


def decibels(noise: float, signal: float) -> float:
    """The ratio of two energies in dB; infinite without a signal, minus infinite without noise."""
    if not noise or not signal:
        return -math.inf if signal else math.inf
    return 10.0 * math.log10(noise / signal)
