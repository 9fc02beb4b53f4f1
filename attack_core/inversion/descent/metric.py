"""Metrics: what a network passes weakly, a descent has to move far, and what it passes strongly, little."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class Metric(Protocol):
    """A symmetric positive definite matrix that is about as the inverse Hessian is."""

    def turned(self, gradient: Tensor) -> Tensor:
        """The matrix times a gradient, both (1, C, H, W)."""
        ...


@dataclass(frozen=True)
class PixelScale:
    """Pixels that move what is seen by `scale` (1, 1 or C, H, W)."""

    scale: Tensor

    def turned(self, gradient: Tensor) -> Tensor:
        """See `Metric`."""
        return gradient / self.scale.square()
