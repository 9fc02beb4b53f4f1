"""Sweeps whose victims are attacked in one program: the same rows up to rounding, wherever and whatever happens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import orchestrator.driver.sweep as driver_module
import orchestrator.trial.run as trial_module
from fl_core.base.errors import InputError
from orchestrator.config.sweep import ExecutionConfig
from tests.support.matched import counted_questions
from tests.support.small import comparable, run, sweep


def together(root: Path, count: int = 3, **changes: Any) -> Any:
    return sweep(root, execution__victims_together=count, **changes)


@pytest.fixture(scope="module")
def apart(faces_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("apart")
    run(sweep(faces_root), out)
    return out


@pytest.fixture(scope="module")
def company(faces_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("company")
    run(together(faces_root), out)
    return out


def test_rows_are_those_of_victims_apart_up_to_rounding(apart: Path, company: Path) -> None:
    one, other = comparable(apart), comparable(company)
    figures = ["psnr", "psnr_prior", "match_loss", "ssim", "mse"]
    rounded = [name for name in one.columns if name in figures]
    assert list(one["trial_id"]) == list(other["trial_id"])
    for name in rounded:
        assert (one[name] - other[name]).abs().max() < 0.05 * one[name].abs().max()
    for name in ("status", "iterations", "work", "method", "packing"):
        pd.testing.assert_series_equal(one[name], other[name])


@pytest.mark.parametrize("count", [2, 3])
def test_each_suggestion_and_the_test_have_programs_of_their_victims(
    faces_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    sizes: list[int] = []
    real = trial_module.run_trials

    def counted(trials: Sequence[Any], **options: Any) -> Any:
        assert len({(spec.cell, spec.phase, spec.suggestion) for spec, _ in trials}) == 1
        sizes.append(len(trials))
        return real(trials, **options)

    monkeypatch.setattr(trial_module, "run_trials", counted)
    asked = counted_questions(monkeypatch)
    outcome = run(together(faces_root, count), tmp_path)
    # Two cells: five suggestions on two victims, then three test victims; one that is left over runs by itself.
    assert (outcome.trials, outcome.failed) == (2 * 13, 0)
    assert sorted(sizes) == [2] * 10 + [count] * 2
    assert max(asked) == count


@pytest.mark.slow
def test_ray_gives_the_same_rows(company: Path, faces_root: Path, tmp_path: Path) -> None:
    run(together(faces_root, execution__workers=2), tmp_path, address="local")
    pd.testing.assert_frame_equal(comparable(company), comparable(tmp_path), rtol=0, atol=0)


def test_what_fails_together_runs_one_by_one(
    apart: Path, faces_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = trial_module._run

    def narrow(trials: Sequence[Any], *args: Any) -> Any:
        if len(trials) > 1:
            raise MemoryError("no room for several")
        return real(trials, *args)

    monkeypatch.setattr(trial_module, "_run", narrow)
    outcome = run(together(faces_root), tmp_path)
    assert outcome.failed == 0
    pd.testing.assert_frame_equal(comparable(apart), comparable(tmp_path))


def test_a_lost_worker_costs_no_victim_its_trial(
    apart: Path, faces_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: Any, **__: Any) -> Any:
        raise RuntimeError("the process is gone")

    monkeypatch.setattr(driver_module, "trials_job", lost)
    outcome = run(together(faces_root), tmp_path)
    assert outcome.failed == 0
    pd.testing.assert_frame_equal(comparable(apart), comparable(tmp_path))


def test_one_victims_mistake_is_its_own(
    faces_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = trial_module._run

    def failing(trials: Sequence[Any], *args: Any) -> Any:
        if any(spec.phase == "test" and spec.victim == 3 for spec, _ in trials):
            raise RuntimeError("a programming error")
        return real(trials, *args)

    monkeypatch.setattr(trial_module, "_run", failing)
    outcome = run(together(faces_root), tmp_path)
    rows = pd.read_parquet(tmp_path / "trials")
    failed = rows[rows["status"] == "failed"]
    assert outcome.failed == len(failed) == 2
    assert set(failed["error"]) == {"RuntimeError: a programming error"}
    assert (rows["status"] == "ok").sum() == 2 * 12


def test_an_interrupted_sweep_attacks_those_that_are_left(
    company: Path, faces_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = trial_module.run_trials, 0

    def interrupted(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls % 4 == 0:
            raise KeyboardInterrupt
        return real(*args, **options)

    monkeypatch.setattr(trial_module, "run_trials", interrupted)
    for _ in range(10):
        try:
            outcome = run(together(faces_root), tmp_path)
            break
        except KeyboardInterrupt:
            continue
    assert outcome.trials == 2 * 13
    assert list(comparable(tmp_path)["trial_id"]) == list(comparable(company)["trial_id"])


def test_at_least_one_victim() -> None:
    with pytest.raises(InputError, match=r"victims_together = 0: must be at least 1"):
        ExecutionConfig(victims_together=0)
