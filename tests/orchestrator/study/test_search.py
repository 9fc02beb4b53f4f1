"""Studies: the lag rule makes suggestions independent of who finishes when."""

from __future__ import annotations

import random

import pytest

from fl_core.base.errors import InputError
from orchestrator.config.space import Choice, FloatRange, IntRange, Params, Space, of_family
from orchestrator.config.sweep import StudyConfig
from orchestrator.study.search import Study, Suggestion
from orchestrator.study.suggestion_run import Evaluation, Outcome

SPACE = Space(
    {
        "lr": FloatRange(kind="float", low=0.01, high=1.0, log=True),
        "restarts": IntRange(kind="int", low=1, high=4),
        "init": Choice(kind="choice", choices=("normal", "fourier")),
    }
)
FAMILIES = Space(
    families={
        "dlg": {"lr": FloatRange(kind="float", low=0.01, high=1.0, log=True)},
        "auto": {},
        "cosine": {
            "restarts": IntRange(kind="int", low=1, high=4),
            "lr": FloatRange(kind="float", low=0.01, high=1.0),
        },
    }
)


def value(params: Params) -> float | None:
    match params.get("family"):
        case "auto":
            return 1.0
        case "dlg":
            return None if float(params["dlg.lr"] or 0) > 0.9 else float(params["dlg.lr"] or 0)
        case "cosine":
            return 2.0 - abs(float(params["cosine.lr"] or 0) - 0.3) + int(params["cosine.restarts"] or 0)
    if params["init"] == "fourier" and int(params["restarts"] or 0) == 4:
        return None
    return -abs(float(params["lr"] or 0) - 0.3) + int(params["restarts"] or 0)


def ended(psnr: float | None, cost: float = 0.0) -> Outcome:
    """How a suggestion with one tuning victim ended."""
    return Outcome("failed" if psnr is None else "ok", (psnr,), cost)


def play(
    config: StudyConfig,
    *,
    workers: int,
    order: int,
    recorded: dict[int, Params] | None = None,
    stop: int = 10**9,
    space: Space = SPACE,
):  # type: ignore[no-untyped-def]
    """Run a study with so many workers whose results come back in a random order."""
    study = Study("cell/generic", space, config, seed=7, recorded=recorded)
    shuffled, running, found = random.Random(order), [], []
    while not study.done and len(found) < stop:
        while len(running) < workers and (asked := study.next()) is not None:
            running.append(asked)
            found.append(asked)
        done: Suggestion = running.pop(shuffled.randrange(len(running)))
        study.record(done.number, ended(value(done.params)))
    return study, found


@pytest.mark.parametrize("sampler", ["tpe", "random"])
@pytest.mark.parametrize("lag", [1, 4])
@pytest.mark.parametrize("space", [SPACE, FAMILIES], ids=["one", "families"])
def test_suggestions_do_not_depend_on_workers_or_order(sampler: str, lag: int, space: Space) -> None:
    config = StudyConfig(suggestions=24, sampler=sampler, lag=lag, startup=5)  # type: ignore[arg-type]
    study, serial = play(config, workers=1, order=0, space=space)
    assert [s.number for s in serial] == list(range(24))
    for workers, order in ((2, 1), (3, 2), (8, 3), (8, 4)):
        other, found = play(config, workers=workers, order=order, space=space)
        assert found == serial
        assert other.best() == study.best()


def test_the_lag_bounds_what_is_open() -> None:
    study = Study("s", SPACE, StudyConfig(suggestions=9, lag=3), seed=0)
    first = [study.next() for _ in range(4)]
    assert first[3] is None
    assert study.next() is None
    study.record(1, ended(1.0))
    assert study.next() is None, "result 1 may not be told before result 0"
    study.record(0, ended(1.0))
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


@pytest.mark.parametrize("space", [SPACE, FAMILIES], ids=["one", "families"])
def test_a_resumed_study_goes_on_where_it_was(space: Space) -> None:
    config = StudyConfig(suggestions=20, lag=4, startup=5)
    _, whole = play(config, workers=2, order=1, space=space)
    _, part = play(config, workers=2, order=5, stop=11, space=space)
    recorded = {s.number: s.params for s in part}
    _, resumed = play(config, workers=3, order=9, recorded=recorded, space=space)
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
        evaluation = Evaluation(1)
        evaluation.take(*evaluation.ready(), result)
        outcome = evaluation.outcome()
        assert outcome == Outcome("failed", (None,))
        study.record(asked.number, outcome)
    assert study.done
    assert study.best() is None


def test_a_grid_tries_every_combination_once() -> None:
    space = {
        "a": Choice(kind="choice", choices=(1, 2)),
        "b": Choice(kind="choice", choices=("x", "y", "z")),
    }
    study = Study("s", Space(space), StudyConfig(sampler="grid", lag=2), seed=0)
    seen = []
    while (asked := study.next()) is not None:
        seen.append(tuple(asked.params.values()))
        study.record(asked.number, ended(0.0))
    assert sorted(seen) == sorted((a, b) for a in (1, 2) for b in "xyz")
    with pytest.raises(InputError, match="'lr' is a range"):
        Study("s", SPACE, StudyConfig(sampler="grid"), seed=0)


def test_a_search_over_families_draws_the_chosen_ones_parameters_alone_and_finds_the_best() -> None:
    study, found = play(StudyConfig(suggestions=40, lag=2, startup=8), workers=1, order=0, space=FAMILIES)
    own = {"dlg": {"dlg.lr"}, "auto": set(), "cosine": {"cosine.lr", "cosine.restarts"}}
    for suggestion in found:
        family = str(suggestion.params["family"])
        assert suggestion.params.keys() == {"family"} | own[family]
        assert of_family(suggestion.params).keys() == {name.partition(".")[2] for name in own[family]}
    assert {s.params["family"] for s in found} == own.keys()
    late = [s.params["family"] for s in found[20:]]
    assert late.count("cosine") > len(late) / 2, "the best family is asked most"
    number, _ = study.best() or (0, 0.0)
    assert (study.params(number)["family"], study.params(number)["cosine.restarts"]) == ("cosine", 4)
    assert FAMILIES.every().keys() == {"family", *own["dlg"], *own["cosine"]}


def test_a_recorded_suggestion_of_another_family_is_refused() -> None:
    for params in ({"family": "dlg"}, {"family": "sapag"}, {"family": "auto", "dlg.lr": 0.1}, {"lr": 0.1}):
        with pytest.raises(InputError, match="outside the search space"):
            Study("s", FAMILIES, StudyConfig(), seed=0, recorded={0: params}).next()


def test_a_grid_over_families_is_the_union_of_their_grids() -> None:
    choice = Choice(kind="choice", choices=(1, 2))
    grid = Space(families={"a": {"x": choice, "y": choice}, "b": {}, "c": {"x": choice}}).grid()
    assert len(grid) == 4 + 1 + 2
    assert {"family": "a", "a.x": 2, "a.y": 1} in grid
    assert {"family": "b"} in grid
    assert {"family": "c", "c.x": 1} in grid
    with pytest.raises(InputError, match=r"'dlg\.lr' is a range"):
        FAMILIES.grid()
