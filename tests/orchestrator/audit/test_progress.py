"""How far an audit is, and what is left."""

from __future__ import annotations

import pytest

from orchestrator.audit.progress import counting, duration


def _said(seconds: float, planned: int) -> list[str]:
    said: list[str] = []
    times = iter(i * seconds for i in range(planned + 1))
    count = counting(said.append, clock=lambda: next(times))
    for done in range(1, planned + 1):
        count(done, planned)
    return said


def test_each_line_says_how_long_the_rest_takes() -> None:
    said = _said(60.0, 4)
    assert said[0] == "  1 of 4 simulated clients, about 3 minutes left"
    assert said[-1] == "  4 of 4 simulated clients in 4 minutes"


def test_quick_clients_are_named_at_the_beginning_and_the_end() -> None:
    assert _said(0.01, 19) == [
        "  1 of 19 simulated clients, about 0 s left",
        "  19 of 19 simulated clients in 0 s",
    ]


def test_what_takes_long_says_once_how_it_takes_less() -> None:
    said = _said(100.0, 19)
    assert "--effort 0.1" in said[0]
    assert not any("--effort" in text for text in said[1:])


@pytest.mark.parametrize(("seconds", "text"), [(89, "89 s"), (600, "10 minutes"), (7200, "2.0 hours")])
def test_durations_are_said_in_a_unit_that_suits_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text
