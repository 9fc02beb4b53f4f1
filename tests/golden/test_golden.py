"""Golden trials: a change that does not mean to change an attack, a defense or a capture changes no figure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.golden.trials import FIGURES, SWEEP, TOLERANCE_DB, WIDER_DB, measured

KEPT: dict[str, Any] = json.loads(FIGURES.read_text(encoding="utf-8"))

QUICK = ("none", "noise")
"""Cells whose trials are run by `make test`; all together take most of a minute."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("golden")


def marked(trial: str) -> Any:
    return pytest.param(trial, marks=() if trial.partition(" / ")[0] in QUICK else pytest.mark.slow)


def test_the_trials_are_the_same() -> None:
    names = {f"{cell.name} / {attacker.name}" for cell in SWEEP.cells for attacker in SWEEP.attackers}
    assert names == KEPT["trials"].keys()
    assert (KEPT["tolerance_db"], KEPT["wider_db"]) == (TOLERANCE_DB, WIDER_DB)


@pytest.mark.parametrize("trial", [marked(trial) for trial in KEPT["trials"]])
def test_the_figures_are_the_same(trial: str, folder: Path) -> None:
    mine, kept = measured(folder, [trial.partition(" / ")[0]])[trial], KEPT["trials"][trial]
    assert (mine["status"], mine["method"]) == (kept["status"], kept["method"])
    assert mine["psnr"] == pytest.approx(kept["psnr"], abs=WIDER_DB.get(trial, TOLERANCE_DB))


@pytest.mark.slow
def test_no_attack_is_better_on_average_than_the_proven_bound(folder: Path) -> None:
    measured(folder, ["dp"])
    rows = pd.read_parquet(folder / "results" / "trials")
    private = rows[rows["cell"] == "dp"]
    assert private["psnr_bound"].nunique() == 1
    assert 10.0 < private["psnr_bound"].iloc[0] < 150.0
    for _, group in private.groupby("attacker"):
        assert group["mse"].mean() >= 10.0 ** (-group["psnr_bound"].iloc[0] / 10.0)
    assert rows.loc[rows["cell"] == "none", "psnr_bound"].isna().all()
