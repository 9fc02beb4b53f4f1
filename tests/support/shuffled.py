"""An executor whose jobs end in another order than they began."""

from __future__ import annotations

import random

from orchestrator.execute.execute import Done, SerialExecutor


class Shuffled(SerialExecutor):
    """So many jobs at a time, which end in a random order."""

    def __init__(self, capacity: int, seed: int) -> None:
        super().__init__()
        self.capacity, self._random = capacity, random.Random(seed)

    def next_done(self, timeout: float) -> Done | None:
        self._queue.rotate(self._random.randrange(len(self._queue)) if self._queue else 0)
        return super().next_done(timeout)
