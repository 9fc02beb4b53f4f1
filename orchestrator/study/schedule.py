"""Which trial starts next: studies take turns, tuning before testing."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Schedule(Generic[T]):
    """Waiting trials by owner. Owners take turns; an owner's own trials keep their order.

    Urgent trials, which others wait for, go before the rest: a study is a chain of suggestions, and what fills the
    gaps of the chains are the trials that nobody waits for. So all workers have something to do to the end.
    """

    def __init__(self) -> None:
        self._urgent: dict[str, deque[T]] = {}
        self._rest: dict[str, deque[T]] = {}

    def __len__(self) -> int:
        return sum(len(queue) for lane in (self._urgent, self._rest) for queue in lane.values())

    def add(self, owner: str, trial: T, *, urgent: bool) -> None:
        """Queue a trial behind the others of its owner."""
        (self._urgent if urgent else self._rest).setdefault(owner, deque()).append(trial)

    def take(self, allowed: Callable[[T], bool] = lambda _: True) -> T | None:
        """The trial whose turn it is, or None; an owner whose first trial is not allowed yet is passed over."""
        for lane in (self._urgent, self._rest):
            for owner, queue in lane.items():
                if allowed(queue[0]):
                    trial = queue.popleft()
                    # The owner goes to the end of the row, or out of it.
                    del lane[owner]
                    if queue:
                        lane[owner] = queue
                    return trial
        return None
