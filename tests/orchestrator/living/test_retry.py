"""What failed runs again, and nothing else: the folder is then what it would be without the failure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fl_core.base.errors import InputError
from orchestrator.driver.streak import Streak
from orchestrator.driver.sweep import run_sweep
from orchestrator.living.retry import retry_trials
from orchestrator.runtime.progress import Silent
from orchestrator.trial.run import trial_job
from orchestrator.trial.spec import TrialSpec
from tests.support.command import gradsweep, refused
from tests.support.small import comparable, run_quietly, sweep


@pytest.fixture(scope="module")
def whole(faces_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small sweep, in which nothing failed."""
    out = tmp_path_factory.mktemp("whole")
    run_quietly(sweep(faces_root), out)
    return out


def failing(wanted: Callable[[TrialSpec], bool]) -> Callable[..., Any]:
    """A worker's job that fails for the trials that are wanted."""

    def job(spec: TrialSpec, *parts: Any, **settings: Any) -> Any:
        if wanted(spec):
            raise RuntimeError(f"the disk of victim {spec.victim} is gone")
        return trial_job(spec, *parts, **settings)

    return job


def run_failing(root: Path, out: Path, wanted: Callable[[TrialSpec], bool], **settings: Any) -> Any:
    return run_sweep(sweep(root), out, address="serial", reporter=Silent(), job=failing(wanted), **settings)


def again(out: Path, **settings: Any) -> Any:
    return retry_trials(out, address="serial", reporter=Silent(), **settings)


@pytest.mark.slow
def test_a_failed_test_trial_runs_again_alone(faces_root: Path, whole: Path, tmp_path: Path) -> None:
    first = run_failing(faces_root, tmp_path, lambda spec: spec.phase == "test" and spec.victim == 3)
    assert (first.trials, first.failed, first.stopped) == (26, 2, None)
    outcome = again(tmp_path)
    assert (outcome.trials, outcome.fresh, outcome.failed) == (26, 2, 0)
    pd.testing.assert_frame_equal(comparable(tmp_path), comparable(whole))


@pytest.mark.slow
def test_a_failed_suggestion_gets_its_value_and_stays_as_it_was_asked(
    faces_root: Path, whole: Path, tmp_path: Path
) -> None:
    def wanted(spec: TrialSpec) -> bool:
        return spec.cell == "dp" and spec.suggestion == 4 and spec.victim == 1 and spec.phase == "tune"

    run_failing(faces_root, tmp_path, wanted)
    before = pd.read_parquet(tmp_path / "studies" / "studies.parquet")
    assert list(before["state"]).count("failed") == 1
    outcome = again(tmp_path, cells=["dp"])
    assert outcome.failed == 0
    after, clean = (pd.read_parquet(out / "studies" / "studies.parquet") for out in (tmp_path, whole))
    assert list(after["params"]) == list(before["params"])
    pd.testing.assert_frame_equal(after, clean)


@pytest.mark.slow
def test_other_cells_are_left_alone(faces_root: Path, tmp_path: Path) -> None:
    run_failing(faces_root, tmp_path, lambda spec: spec.phase == "test" and spec.victim == 2)
    assert again(tmp_path, cells=["no*"]).fresh == 1
    rows = pd.read_parquet(tmp_path / "trials")
    assert list(rows.loc[rows["status"] == "failed", "cell"]) == ["dp"]


@pytest.mark.slow
def test_all_trials_of_a_cell_run_again(faces_root: Path, whole: Path, tmp_path: Path) -> None:
    run_quietly(sweep(faces_root, execution__images="test"), tmp_path)
    before = len(pd.read_parquet(tmp_path / "images"))
    outcome = again(tmp_path, cells=["dp"], failed=False)
    assert (outcome.trials, outcome.fresh) == (13, 13)
    pd.testing.assert_frame_equal(comparable(tmp_path), comparable(whole))
    assert len(pd.read_parquet(tmp_path / "images")) == before == 6


def test_a_retry_that_is_refused_takes_nothing_out(faces_root: Path, tmp_path: Path) -> None:
    run_failing(faces_root, tmp_path, lambda spec: spec.phase == "test" and spec.victim == 3)
    rows = comparable(tmp_path)
    with pytest.raises(InputError, match="elsewhere"):
        again(tmp_path, failed=False, data_root=str(tmp_path / "elsewhere"))
    pd.testing.assert_frame_equal(comparable(tmp_path), rows)


def test_failures_of_one_kind_stop_a_sweep_which_goes_on_later(
    faces_root: Path, whole: Path, tmp_path: Path
) -> None:
    outcome = run_failing(faces_root, tmp_path, lambda _: True, patience=4)
    assert (outcome.fresh, outcome.failed) == (4, 4)
    assert outcome.stopped is not None
    assert outcome.stopped.startswith(
        "4 trials in a row failed for one reason: RuntimeError: the disk of victim"
    )
    assert again(tmp_path).failed == 0
    assert len(comparable(tmp_path)) == len(comparable(whole))


def test_keeping_going_runs_all(faces_root: Path, tmp_path: Path) -> None:
    outcome = run_failing(faces_root, tmp_path, lambda _: True, patience=None)
    assert (outcome.fresh, outcome.failed, outcome.stopped) == (20, 20, None)


@pytest.mark.slow
def test_the_command_line_says_what_stopped_it(
    faces_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_failing(faces_root, tmp_path, lambda spec: spec.phase == "test" and spec.victim == 3)
    monkeypatch.setattr("orchestrator.driver.sweep.trial_job", failing(lambda _: True))
    done = gradsweep("retry", tmp_path, "--all", "--address", "serial")
    assert done.returncode == 1
    assert "20 trials in a row failed for one reason" in done.stdout
    assert f"`gradsweep retry {tmp_path}`, or go on with --keep-going" in done.stdout
    monkeypatch.undo()
    done = gradsweep("retry", tmp_path, "--address", "serial")
    assert done.returncode == 0, done.stderr
    assert "20 trials run again" in done.stdout
    assert "26 trials, 26 of them run now, 0 failed." in done.stdout


def test_what_cannot_be_run_again_is_refused(whole: Path, tmp_path: Path) -> None:
    refused(gradsweep("retry", tmp_path), "holds no sweep", "sweep.json")
    refused(gradsweep("retry", tmp_path / "gone"), "is not there")
    refused(gradsweep("retry", whole, "--cells", "dpp", "--address", "serial"), "matches none of none, dp")


def test_only_one_kind_in_a_row_counts() -> None:
    streak = Streak(3)
    for error in ("lost 1", "lost 2", None, "lost 3", "lost 4", "other", "lost 5", "lost 6"):
        streak.take(error, trial="t")
        assert streak.text is None
    streak.take("lost 7", trial="t7")
    assert streak.text == "3 trials in a row failed for one reason: lost 7 (such as t7)"
    endless = Streak(None)
    for _ in range(100):
        endless.take("lost", trial="t")
    assert endless.text is None
