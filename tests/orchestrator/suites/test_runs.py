"""Runs of a suite: their names and folders, means over clients, what is said of those that failed."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from fl_core.base.errors import InputError
from orchestrator.analysis.intervals import mean_interval
from orchestrator.suites.catalog import suite_of
from orchestrator.suites.runs import means, runs_of, runs_of_suite, write_table
from orchestrator.suites.tables import means_table, runs_table
from tests.support.results_folder import failed_row, row, trial, write_folder


def folder(out: Path, *runs: tuple[str, str]) -> Path:
    """A results folder with one victim for each cell and attacker."""
    return write_folder(out, [trial(row(cell, attacker=attacker)) for cell, attacker in runs])


def printed(table: object) -> str:
    console = Console(width=120)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def test_runs_are_named_by_what_tells_them_apart(tmp_path: Path) -> None:
    defenses = folder(
        tmp_path / "d",
        *(("none", "original"), ("none", "adaptive"), ("dp_eps8", "original"), ("dp_eps8", "adaptive")),
    )
    names = {(run.line.cell, run.line.attacker): run.name for run in runs_of(defenses, defenses)}
    assert names == {
        ("none", "original"): "none",
        ("none", "adaptive"): "none_adaptive",
        ("dp_eps8", "original"): "dp_eps8",
        ("dp_eps8", "adaptive"): "dp_eps8_adaptive",
    }
    clients = folder(tmp_path / "c", ("bmk_c0", "original"), ("bmk_c1", "original"))
    assert {run.folder for run in runs_of(clients, clients)} == {clients / "bmk_c0", clients / "bmk_c1"}
    settings = folder(tmp_path / "s", ("none", "tv_1e-6"), ("none", "tv_1e-5"))
    assert {run.name for run in runs_of(settings, settings)} == {"tv_1e-6", "tv_1e-5"}


def test_a_single_run_has_the_results_folder_and_its_name(tmp_path: Path) -> None:
    (run,) = runs_of(folder(tmp_path / "showcase", ("none", "original")), tmp_path / "showcase")
    assert (run.folder, run.name) == (tmp_path / "showcase", "showcase")


def test_parts_that_were_run_are_read_and_others_left_out(tmp_path: Path) -> None:
    base = suite_of("base")
    with pytest.raises(InputError, match="holds no results of the suite base; run it first"):
        runs_of_suite(base, tmp_path)
    folder(base.folder("original/base/quick", tmp_path), ("none", "original"))
    folder(
        base.folder("original/base/ablation", tmp_path), ("optimal", "original"), ("momentum_09", "original")
    )
    names = [run.name for run in runs_of_suite(base, tmp_path)]
    assert sorted(names) == ["ablation/momentum_09", "ablation/optimal", "quick"]


def test_means_are_over_clients_and_say_which_are_missing(tmp_path: Path) -> None:
    values = [20.0, 22.0, 25.0, 27.0, 26.0]
    found = [trial(row(f"bmk_c{i}", attacker="original", psnr=psnr)) for i, psnr in enumerate(values)]
    lost = trial(failed_row("bmk_c5", attacker="original", error="no memory"))
    out = write_folder(tmp_path / "multi_client", [*found, lost])
    runs = runs_of(out, out)
    (mean,) = means(runs)
    assert (mean.psnr.mean, mean.least, mean.most) == pytest.approx((24.0, 20.0, 27.0))
    assert (mean.measured, len(mean.runs)) == (5, 6)
    assert mean.mean("psnr_range4") == pytest.approx(24.0 + 6.02)
    assert (mean.control, mean.labels) == (11.0, 1.0)
    expected = mean_interval(np.array([*values, math.nan]), failed=11.0)
    assert (mean.psnr.low, mean.psnr.high) == pytest.approx((expected.low, expected.high))
    assert "5 of 6" in printed(means_table([mean], width=100))
    assert "bmk_c5" in printed(runs_table(runs, width=100))
    table = pd.read_csv(write_table(out, runs)).set_index("run")
    assert table["psnr"].tolist()[:5] == values
    assert (table.loc["bmk_c5", "failed"], table["failed"].sum()) == (1, 1)
    assert math.isnan(table["psnr"]["bmk_c5"])
