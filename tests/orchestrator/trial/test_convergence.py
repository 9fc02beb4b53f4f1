"""What a trace of an attack's loss keeps."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from orchestrator.trial.convergence import POINTS, Trace


@pytest.mark.parametrize("count", [1, 7, POINTS, POINTS + 1, 1000, 4097])
def test_few_points_are_kept_at_even_distances_and_the_last_one(count: int) -> None:
    told: list[tuple[int, int, float]] = []
    trace = Trace(lambda done, planned, loss: told.append((done, planned, loss)))
    for done in range(1, count + 1):
        trace(done, count, 1 / done)
    assert told == [(done, count, 1 / done) for done in range(1, count + 1)]
    assert 1 <= len(trace.points) <= POINTS + 1
    assert trace.points[-1] == (count, 1 / count)
    assert all(loss == 1 / done for done, loss in trace.points)
    gaps = {later[0] - earlier[0] for earlier, later in pairwise(trace.points[:-1])}
    assert len(gaps) <= 1
    assert count < POINTS or len(trace.points) >= POINTS // 2


def test_the_last_loop_and_finite_losses_count() -> None:
    trace = Trace()
    for loop in (3.0, 2.0):
        for done, loss in ((1, math.inf), (2, loop), (3, loop / 2)):
            trace(done, 3, loss)
    assert trace.points == ((2, 2.0), (3, 1.0))
    assert Trace().points == ()
