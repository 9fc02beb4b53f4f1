"""Studies: the lag rule makes suggestions independent of who finishes when."""

from __future__ import annotations

import random

import pytest

from fl_core.errors import InputError
from orchestrator.config import StudyConfig
from orchestrator.search import Study, Suggestion
from orchestrator.space import Choice, FloatRange, IntRange, Params

SPACE = {
    "lr": FloatRange(kind="float", low=0.01, high=1.0, log=True),
    "restarts": IntRange(kind="int", low=1, high=4),
    "init": Choice(kind="choice", choices=("normal", "fourier")),
}


def value(params: Params) -> float | None:
    if params["init"] == "fourier" and int(params["restarts"] or 0) == 4:
        return None
    return -abs(float(params["lr"] or 0) - 0.3) + int(params["restarts"] or 0)


def play(
    config: StudyConfig,
    *,
    workers: int,
    order: int,
    recorded: dict[int, Params] | None = None,
    stop: int = 10**9,
):  # type: ignore[no-untyped-def]
    """Run a study with so many workers whose results come back in a random order."""
    study = Study("cell/generic", SPACE, config, seed=7, recorded=recorded)
    shuffled, running, found = random.Random(order), [], []
    while not study.done and len(found) < stop:
        while len(running) < workers and (asked := study.next()) is not None:
            running.append(asked)
            found.append(asked)
        done: Suggestion = running.pop(shuffled.randrange(len(running)))
        study.record(done.number, value(done.params))
    return study, found


@pytest.mark.parametrize("sampler", ["tpe", "random"])
@pytest.mark.parametrize("lag", [1, 4])
def test_suggestions_do_not_depend_on_workers_or_order(sampler: str, lag: int) -> None:
    config = StudyConfig(suggestions=24, sampler=sampler, lag=lag, startup=5)  # type: ignore[arg-type]
    study, serial = play(config, workers=1, order=0)
    assert [s.number for s in serial] == list(range(24))
    for workers, order in ((2, 1), (3, 2), (8, 3), (8, 4)):
        other, found = play(config, workers=workers, order=order)
        assert found == serial
        assert other.best() == study.best()


def test_the_lag_bounds_what_is_open() -> None:
    study = Study("s", SPACE, StudyConfig(suggestions=9, lag=3), seed=0)
    first = [study.next() for _ in range(4)]
    assert first[3] is None
    assert study.next() is None
    study.record(1, 1.0)
    assert study.next() is None, "result 1 may not be told before result 0"
    study.record(0, 1.0)
    assert [study.next() is not None for _ in range(3)] == [True, True, False]


def test_tpe_learns_from_results() -> None:
    def late_mean(sampler: str) -> float:
        config = StudyConfig(suggestions=40, lag=2, startup=8, sampler=sampler)  # type: ignore[arg-type]
        study, found = play(config, workers=1, order=0)
        number, best = study.best() or (0, 0.0)
        assert best == max(v for s in found if (v := value(s.params)) is not None)
        assert study.params(number) == found[number].params
        late = [v for s in found[20:] if (v := value(s.params)) is not None]
        return sum(late) / len(late)

    assert late_mean("tpe") > late_mean("random") + 0.3


def test_a_resumed_study_goes_on_where_it_was() -> None:
    config = StudyConfig(suggestions=20, lag=4, startup=5)
    _, whole = play(config, workers=2, order=1)
    _, part = play(config, workers=2, order=5, stop=11)
    recorded = {s.number: s.params for s in part}
    _, resumed = play(config, workers=3, order=9, recorded=recorded)
    assert resumed == whole


def test_recorded_suggestions_outside_the_space_are_refused() -> None:
    recorded: dict[int, Params] = {0: {"lr": 5.0, "restarts": 1, "init": "normal"}}
    with pytest.raises(InputError, match=r"suggestion 0 is recorded as .* outside the search space"):
        Study("s", SPACE, StudyConfig(), seed=0, recorded=recorded).next()


def test_failures_count_as_told_and_never_win() -> None:
    study = Study("s", SPACE, StudyConfig(suggestions=3, lag=1), seed=0)
    for result in (None, float("nan"), None):
        asked = study.next()
        assert asked is not None
        study.record(asked.number, result)
    assert study.done
    assert study.best() is None


def test_a_grid_tries_every_combination_once() -> None:
    space = {
        "a": Choice(kind="choice", choices=(1, 2)),
        "b": Choice(kind="choice", choices=("x", "y", "z")),
    }
    study = Study("s", space, StudyConfig(sampler="grid", lag=2), seed=0)
    seen = []
    while (asked := study.next()) is not None:
        seen.append(tuple(asked.params.values()))
        study.record(asked.number, 0.0)
    assert sorted(seen) == sorted((a, b) for a in (1, 2) for b in "xyz")
    with pytest.raises(InputError, match="'lr' is a range"):
        Study("s", SPACE, StudyConfig(sampler="grid"), seed=0)
