"""Studies with the attack's work as a second objective: suggestions, the winner, the tables, the copy, the report."""

from __future__ import annotations

import json
import math
import random
import shutil
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection

from fl_core.base.errors import InputError
from orchestrator.analysis.summary import summary_lines
from orchestrator.config.plain import build
from orchestrator.config.space import FloatRange, IntRange, Params, Space
from orchestrator.config.sweep import StudyConfig
from orchestrator.driver import sweep as driver
from orchestrator.driver.sweep import run_sweep
from orchestrator.report.report import write_report
from orchestrator.runtime.progress import Silent
from orchestrator.study.search import Study
from orchestrator.study.suggestion_run import Outcome
from tests.support.shuffled import Shuffled
from tests.support.small import comparable, sweep

SPACE = Space(
    {
        "lr": FloatRange(kind="float", low=0.01, high=1.0, log=True),
        "iterations": IntRange(kind="int", low=10, high=1000, log=True),
    }
)
BOTH: dict[str, Any] = {
    "study__objectives": ["psnr", "work"],
    "study__within": 0.5,
    "study__suggestions": 6,
    "attackers__0__search__iterations": {"kind": "int", "low": 2, "high": 16, "log": True},
}


def reached(params: Params) -> tuple[float, float]:
    """PSNR and work on a hill with a price: more iterations help less and less."""
    lr, iterations = float(str(params["lr"])), float(str(params["iterations"]))
    return 10.0 + 4.0 * math.log10(iterations) - 4.0 * abs(math.log10(lr) + 1.0), iterations


def played(sampler: str, *, workers: int, order: int, count: int = 24) -> tuple[Study, list[Params]]:
    config = StudyConfig(
        suggestions=count,
        lag=3,
        startup=6,
        sampler=sampler,  # type: ignore[arg-type]
        objectives=("psnr", "work"),
        within=1.0,
    )
    study, found, running, shuffled = Study("s", SPACE, config, seed=2), [], [], random.Random(order)
    while not study.done:
        while len(running) < workers and (asked := study.next()) is not None:
            running.append(asked)
            found.append(asked.params)
        done = running.pop(shuffled.randrange(len(running)))
        psnr, work = reached(done.params)
        failed = done.number % 7 == 4
        ended = Outcome("failed", (None,)) if failed else Outcome("ok", (psnr,), work=work)
        study.record(done.number, ended)
    return study, found


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_suggestions_do_not_depend_on_workers(sampler: str) -> None:
    study, serial = played(sampler, workers=1, order=0)
    for workers, order in ((3, 1), (8, 2)):
        other, found = played(sampler, workers=workers, order=order)
        assert found == serial
        assert other.best() == study.best()


def test_the_winner_is_the_cheapest_near_the_best() -> None:
    study, found = played("tpe", workers=1, order=0)
    told = {i: reached(params) for i, params in enumerate(found) if i % 7 != 4}
    best = max(psnr for psnr, _ in told.values())
    near = {i: work for i, (psnr, work) in told.items() if psnr >= best - 1.0}
    number, psnr = study.best() or (-1, 0.0)
    assert near[number] == min(near.values())
    assert psnr == told[number][0]
    assert study.values(number) == list(told[number])
    assert study.values(4) is None


def test_tpe_looks_along_the_front() -> None:
    """Late suggestions of TPE lie nearer to the best rate, for cheap and for dear attacks, than random ones."""

    def off(sampler: str) -> float:
        _, found = played(sampler, workers=1, order=0, count=60)
        return sum(abs(math.log10(float(str(p["lr"]))) + 1.0) for p in found[30:]) / 30

    assert off("tpe") < 0.6 * off("random")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"objectives": ["work"]}, r"objectives = \['work'\]|objectives.*must be \[psnr\] or \[psnr, work\]"),
        ({"objectives": ["psnr", "work"]}, "within = None: must be given with the objectives"),
        ({"within": 1.0}, "within = 1.0: must be given with the objectives"),
        ({"objectives": ["psnr", "work"], "within": -1.0}, "within = -1.0: must be at least 0 dB"),
        (
            {"objectives": ["psnr", "work"], "within": 1.0, "sampler": "cmaes"},
            "sampler = 'cmaes': must be tpe",
        ),
        ({"objectives": ["psnr", "work"], "within": 1.0, "prune": 3.0}, "prune = 3.0: must be null"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        build(StudyConfig, changes, where="study")


@pytest.fixture(scope="module")
def both(faces_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("both")
    run_sweep(sweep(faces_root, **BOTH), out, address="serial", reporter=Silent())
    return out


def test_rows_and_studies_hold_the_work(both: Path) -> None:
    rows, studies = pd.read_parquet(both / "trials"), pd.read_parquet(both / "studies")
    attack = rows["attack_params"].map(json.loads)
    # One evaluation for each iteration of each restart, and one of what it ends at.
    planned = attack.map(lambda each: (each["iterations"] + 1) * each["restarts"])
    assert (rows["work"] == planned).all()
    by_trial = rows.drop_duplicates("trial_id").set_index("trial_id")["work"]
    for told in studies.itertuples():
        assert told.work == by_trial[list(told.trial_ids)].mean()


def test_the_tested_winner_is_the_cheapest_near_the_best(both: Path) -> None:
    studies, rows = pd.read_parquet(both / "studies"), pd.read_parquet(both / "trials")
    for line in summary_lines(both):
        told = studies[studies["study"] == f"{line.cell}/{line.attacker}"]
        near = told[told["value"] >= told["value"].max() - 0.5]
        won = line.winner
        assert won is not None
        assert won.work == near["work"].min() == line.columns()["tuning_work"]
        mine = rows[(rows["cell"] == line.cell) & (rows["phase"] == "test")]
        assert set(mine["suggestion"]) == {won.suggestion}
        front = json.loads(line.columns()["front"])
        assert [won.suggestion, won.value, won.work] in front
        assert front[-1][1] == told["value"].max()


def test_any_order_of_results_gives_the_same_rows(
    both: Path, faces_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "make_executor", lambda *_, **__: Shuffled(3, 1))
    run_sweep(sweep(faces_root, **BOTH), tmp_path, address="serial", reporter=Silent())
    pd.testing.assert_frame_equal(comparable(tmp_path), comparable(both))


def test_a_resumed_study_computes_nothing_and_grows(both: Path, faces_root: Path, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    shutil.copytree(both, out)
    again = run_sweep(sweep(faces_root, **BOTH), out, address="serial", reporter=Silent())
    assert again.fresh == 0
    before = pd.read_parquet(out / "studies")
    larger = sweep(faces_root, **{**BOTH, "study__suggestions": 8})
    run_sweep(larger, out, address="serial", reporter=Silent())
    after = pd.read_parquet(out / "studies")
    assert set(before["params"]) <= set(after["params"])
    assert len(after) == 16


def test_objectives_may_not_change_in_a_folder(both: Path, faces_root: Path, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    shutil.copytree(both, out)
    with pytest.raises(InputError, match="study"):
        run_sweep(
            sweep(faces_root, **{**BOTH, "study__within": 2.0}), out, address="serial", reporter=Silent()
        )


def test_optunas_copy_has_both_values(both: Path) -> None:
    storage = JournalStorage(JournalFileBackend(str(both / "optuna.journal")))
    studies = pd.read_parquet(both / "studies")
    for name, told in studies.groupby("study"):
        copy = optuna.load_study(study_name=f"small/{name}", storage=storage)
        assert copy.directions == [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE]
        for trial, row in zip(copy.trials, told.sort_values("suggestion").to_dict("records"), strict=True):
            assert trial.values == pytest.approx([row["value"], row["work"]])


def test_the_report_shows_the_front(both: Path) -> None:
    page = write_report(both, summary_lines(both)).read_text(encoding="utf-8")
    assert "PSNR and work of every suggestion" in page
    assert "the least work at most 0.5 dB behind the best wins" in page
    assert (both / "figures" / "front-light.svg").exists()
