"""Every sampler: deterministic, resumed to the same suggestions, and better than nothing on a plain hill."""

from __future__ import annotations

from pathlib import Path

import pytest

from fl_core.base.errors import InputError
from orchestrator.analysis.summary import summary_lines
from orchestrator.config.space import Choice, FloatRange, Params, Space
from orchestrator.config.sweep import StudyConfig
from orchestrator.results.store import read_studies
from orchestrator.study import search
from orchestrator.study.search import Study, check_sampler
from orchestrator.study.suggestion_run import Outcome
from tests.support.small import run, sweep

SAMPLERS = ["tpe", "random", pytest.param("gp", marks=pytest.mark.slow), "cmaes"]
SPACE = Space(
    {
        "x": FloatRange(kind="float", low=-1.0, high=1.0),
        "y": FloatRange(kind="float", low=-1.0, high=1.0),
        "z": Choice(kind="choice", choices=("a", "b")),
    }
)
CHOICES = {
    "init": {"kind": "choice", "choices": ["normal", "fourier"]},
    "objective.kind": {"kind": "choice", "choices": ["l2", "cosine"]},
}
RANGES = {
    "lr": {"kind": "float", "low": 0.01, "high": 0.3, "log": True},
    "tv_weight": {"kind": "float", "low": 1e-6, "high": 1e-2, "log": True},
}


def _needs(sampler: str) -> None:
    if sampler == "cmaes":
        pytest.importorskip("cmaes", reason="the library cmaes is not installed")


def value(params: Params) -> float:
    x, y = float(str(params["x"])), float(str(params["y"]))
    return -((x - 0.4) ** 2) - (y + 0.3) ** 2 - (params["z"] == "b")


def walked(
    sampler: str, count: int, *, seed: int = 1, known: int = 0, recorded: list[Params] | None = None
) -> list[Params]:
    """The suggestions of a study of so many; the first `known` of `recorded` are taken from an earlier run."""
    config = StudyConfig(suggestions=count, sampler=sampler, lag=2, startup=4)  # type: ignore[arg-type]
    study = Study("s", SPACE, config, seed=seed, recorded=dict(enumerate((recorded or [])[:known])))
    found: list[Params] = []
    while not study.done:
        waiting = []
        while (suggestion := study.next()) is not None:
            waiting.append(suggestion)
        for suggestion in waiting:
            found.append(suggestion.params)
            study.record(suggestion.number, Outcome("ok", values=(value(suggestion.params),), cost=1.0))
    return found


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_same_seed_gives_the_same_suggestions_and_another_seed_others(sampler: str) -> None:
    _needs(sampler)
    first = walked(sampler, 14)
    assert len(first) == 14
    assert walked(sampler, 14) == first
    assert walked(sampler, 14, seed=2) != first


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("known", [pytest.param(3, marks=pytest.mark.slow), 9])
def test_a_resumed_study_makes_the_same_suggestions(sampler: str, known: int) -> None:
    _needs(sampler)
    whole = walked(sampler, 14)
    assert walked(sampler, 14, known=known, recorded=whole) == whole


@pytest.mark.parametrize("sampler", ["tpe", pytest.param("gp", marks=pytest.mark.slow), "cmaes"])
def test_what_was_seen_is_used(sampler: str) -> None:
    """After 24 suggestions the last twelve lie higher on the hill than random ones."""
    _needs(sampler)

    def height(name: str) -> float:
        tail = [params for seed in (1, 2) for params in walked(name, 24, seed=seed)[-12:]]
        last = [value({**params, "z": "a"}) for params in tail]
        return sum(last) / len(last)

    assert height(sampler) > height("random") + 0.1


@pytest.mark.parametrize("sampler", [*SAMPLERS, "grid"])
def test_a_small_sweep_with_each_sampler(sampler: str, faces_root: Path, tmp_path: Path) -> None:
    _needs(sampler)
    attacker = {
        "name": "generic",
        "attack": {"kind": "matching", "iterations": 3},
        "search": CHOICES if sampler == "grid" else RANGES,
    }
    config = sweep(
        faces_root,
        model={"kind": "lenet", "image_size": 16},
        cells=[{"name": "none"}],
        victims={"tuning": 1, "test": 1},
        study={"suggestions": 4, "lag": 1, "startup": 2, "sampler": sampler},
        attackers=[attacker],
    )
    done = run(config, tmp_path / "out")
    assert (done.trials, done.failed) == (5, 0)
    (line,) = summary_lines(tmp_path / "out")
    assert line.winner is not None
    assert line.winner.count == 4
    assert run(config, tmp_path / "out").fresh == 0


def test_an_attackers_own_sampler(faces_root: Path, tmp_path: Path) -> None:
    attack = {"kind": "matching", "iterations": 2}
    config = sweep(
        faces_root,
        cells=[{"name": "none"}],
        victims={"tuning": 1, "test": 1},
        study={"suggestions": 5, "lag": 1, "startup": 1},
        attackers=[
            {"name": "common", "attack": attack, "search": RANGES},
            {"name": "own", "attack": attack, "search": RANGES, "sampler": "random"},
        ],
    )
    run(config, tmp_path / "out")
    studies = read_studies(tmp_path / "out").to_pandas().groupby("study")["params"].agg(list)
    common, own = studies["none/common"], studies["none/own"]
    assert common[0] == own[0], "the first is random for both, from the same seed"
    assert common[2:] != own[2:]


def test_a_sampler_without_its_library_or_a_search_is_refused(
    faces_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"needs the library cmaes: pip install"):
        check_sampler(StudyConfig(sampler="cmaes"))
    with pytest.raises(InputError, match="left out where nothing is searched"):
        sweep(faces_root, attackers=[{"name": "x", "sampler": "gp"}])
    with pytest.raises(InputError, match=r"does not go with study.sampler = 'grid'"):
        sweep(
            faces_root,
            study__sampler="grid",
            attackers=[{"name": "x", "sampler": "gp", "search": {"init": CHOICES["init"]}}],
        )
