"""The line that a running sweep shows."""

from __future__ import annotations

import pytest

from orchestrator.runtime.progress import progress_line


def left(line: str) -> str:
    return line.partition("passed, ")[2].partition(" left")[0]


@pytest.mark.parametrize(
    ("done", "resumed", "total", "workers", "expected"),
    [
        (0.01, 0, 1000, 1, "?"),  # One iteration of the first trial: a pace of hours.
        (2.0, 0, 1000, 1, "?"),
        (3.0, 0, 1000, 1, "16:37"),
        (503.0, 500, 1000, 1, "8:17"),  # What an earlier run did says nothing of this one's pace.
        (500.0, 500, 1000, 1, "?"),
        (0.05, 0, 1, 1, "?"),
        (0.5, 0, 1, 1, "0:03"),  # A single experiment is estimated by its iterations.
        (3.0, 0, 1000, 16, "?"),  # Thirteen workers have yet to show how long a job takes.
        (16.0, 0, 1000, 16, "3:04"),
        (1000.0, 0, 1000, 1, "0:00"),
    ],
)
def test_the_time_left_is_told_once_it_means_something(
    done: float, resumed: int, total: int, workers: int, expected: str
) -> None:
    line = progress_line(done=done, resumed=resumed, total=total, passed=3.0, workers=workers, best={})
    assert left(line) == expected


def test_the_best_of_every_study_is_told() -> None:
    line = progress_line(done=3, resumed=2, total=9, passed=60.0, workers=1, best={"b/y": 20.04, "a/x": 11.0})
    assert line == "3/9 jobs  1/min  1:00 passed, 6:00 left  best: a/x 11.0 dB  b/y 20.0 dB"
