"""How an attack's loss fell: a few points of its last loop, spread evenly over its iterations."""

from __future__ import annotations

import math

from attack_core.base.types import Progress

POINTS = 32
"""At most so many points are kept, and the last one besides."""


class Trace:
    """Takes an attack's progress, hands it on, and keeps the loss at every n-th iteration; n doubles as they grow many.

    An attack of several loops counts its iterations anew in each: the last loop is kept.
    """

    def __init__(self, also: Progress | None = None) -> None:
        self._also = also
        self._stride = 1
        self._kept: list[tuple[int, float]] = []
        self._last: tuple[int, float] | None = None

    def __call__(self, done: int, planned: int, loss: float) -> None:
        """See `attack_core.base.types.Progress`."""
        if self._also is not None:
            self._also(done, planned, loss)
        if self._last is not None and done <= self._last[0]:
            self._stride, self._kept = 1, []
        self._last = (done, loss)
        if done % self._stride == 0:
            self._kept.append(self._last)
        if len(self._kept) > POINTS:
            self._stride *= 2
            self._kept = [point for point in self._kept if point[0] % self._stride == 0]

    @property
    def points(self) -> tuple[tuple[int, float], ...]:
        """Iteration and loss of the answer there, in order, the last iteration's included; finite ones alone."""
        last = [self._last] if self._last is not None and self._last not in self._kept else []
        return tuple((done, loss) for done, loss in [*self._kept, *last] if math.isfinite(loss))
