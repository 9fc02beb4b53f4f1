"""How far the simulated clients of an audit are, and how long the rest takes."""

from __future__ import annotations

import time
from collections.abc import Callable

from orchestrator.runtime.progress import duration

Say = Callable[[str], None]
"""Is given a line for a person to read."""

_OFTEN = 5.0
"""In seconds: lines come no more often."""
_LONG = 600.0
"""In seconds: where more are left, the first line says how to take fewer."""


def counting(say: Say, clock: Callable[[], float] = time.monotonic) -> Callable[[int, int], None]:
    """A call for each simulated client that is done, of how many; says that, and about how long the rest takes."""
    started = clock()
    last, long = started, False

    def count(done: int, planned: int) -> None:
        nonlocal last, long
        now = clock()
        if done < planned and done > 1 and now - last < _OFTEN:
            return
        last = now
        left = (now - started) / done * (planned - done)
        hint = "; --effort 0.1 takes about a tenth of that" if left > _LONG and not long else ""
        long = long or left > _LONG
        rest = f", about {duration(left)} left{hint}" if done < planned else f" in {duration(now - started)}"
        say(f"  {done} of {planned} simulated clients{rest}")

    return count
