"""A results folder of an older version: it is read, and the same sweep file goes on in it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from orchestrator.analysis.summary import summarize
from orchestrator.config.parse import load_sweep
from orchestrator.driver.sweep import run_sweep
from orchestrator.runtime.progress import Silent

HERE = Path(__file__).parent


@pytest.fixture
def old(tmp_path: Path) -> Path:
    shutil.copytree(HERE / "results", tmp_path / "results")
    return tmp_path / "results"


def test_it_is_summarized(old: Path) -> None:
    table = summarize(old).set_index(["cell", "attacker"])
    rows = pd.read_parquet(old / "trials")
    test = rows[rows["phase"] == "test"]
    by_victim = test.groupby(["cell", "attacker", "victim"])["psnr"].mean()
    expected = by_victim.groupby(["cell", "attacker"]).mean()
    assert len(table) == 12
    for key, line in table.iterrows():
        assert line["n"] == 2
        assert line["psnr"] == pytest.approx(expected[key], abs=1e-9)


def test_the_same_sweep_file_takes_its_trials_over(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(old.parent)
    before = pd.read_parquet(old / "trials").sort_values(["trial_id", "image_id"]).reset_index(drop=True)
    outcome = run_sweep(load_sweep(HERE / "old.yaml"), old, address="serial", reporter=Silent())
    assert (outcome.trials, outcome.fresh, outcome.failed) == (36, 0, 0)
    after = pd.read_parquet(old / "trials").sort_values(["trial_id", "image_id"]).reset_index(drop=True)
    pd.testing.assert_frame_equal(after[before.columns], before)


@pytest.mark.slow
def test_it_is_extended_by_a_victim(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(old.parent)
    sweep = load_sweep(HERE / "old.yaml", ["victims.test=3", "execution.controls=true"])
    outcome = run_sweep(sweep, old, address="serial", reporter=Silent())
    assert outcome.failed == 0
    assert outcome.fresh == 12
    table = summarize(old)
    assert (table["n"] == 3).all()
