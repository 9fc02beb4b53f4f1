"""The line that a running sweep shows."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from orchestrator.runtime import progress
from orchestrator.runtime.progress import ConsoleReporter, progress_line


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


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


def test_a_log_has_a_line_in_thirty_seconds_and_the_last_one(clock: Clock) -> None:
    log = io.StringIO()
    reporter = ConsoleReporter(Console(file=log, width=200))
    reporter.start(100, 0, {})
    for second in range(1, 100):
        clock.now = float(second)
        reporter.job_done("none/generic", 20.0)
        reporter.tick(1)
    lines = log.getvalue().splitlines()
    assert [line.partition(" ")[0] for line in lines] == ["30/100", "60/100", "90/100"]
    reporter.job_done("none/generic", None)
    assert log.getvalue().splitlines()[3].startswith("100/100 jobs")
    assert "\x1b" not in log.getvalue(), "nothing is drawn over in a log"


def test_a_terminal_has_a_bar_of_all_jobs_and_one_of_the_attack_that_runs_here(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")  # On a "dumb" one, where these tests may run, nothing is drawn over.
    screen = io.StringIO()
    terminal = Console(file=screen, width=120, force_terminal=True, color_system=None, markup=False)
    reporter = ConsoleReporter(terminal)
    reporter.start(2, 0, {})
    clock.now = 1.0
    reporter.iteration(150, 300, 0.25)
    reporter.message("a line of its own")
    clock.now = 2.0
    reporter.job_done("[odd]/generic", 20.0)
    reporter.job_done("[odd]/generic", 21.0)
    shown = screen.getvalue()
    assert "━━━━━" in shown
    assert "0/2 jobs" in shown
    assert "iteration 150/300, loss 0.25" in shown
    assert "a line of its own" in shown
    last = shown.rstrip().splitlines()[-1]
    assert "2/2 jobs" in last, "the bars are gone, and the last line stays"
    assert "[odd]/generic 21.0 dB" in last
