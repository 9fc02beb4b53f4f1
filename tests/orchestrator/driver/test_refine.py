"""Thresholds as a sweep runs them: cells of a grid, more where the attack stops working, tables and files."""

from __future__ import annotations

import dataclasses
import io
import math
from pathlib import Path
from typing import Literal

import pandas as pd
import pytest
from rich.console import Console

from fl_core.base.errors import InputError
from orchestrator.analysis.crossing import Ends
from orchestrator.analysis.strength import GAIN, CriticalLine, critical_frame, critical_lines
from orchestrator.analysis.summary import summary_lines
from orchestrator.config.parse import load_sweep, threshold_value, with_thresholds
from orchestrator.config.plain import build
from orchestrator.config.sweep import SweepConfig
from orchestrator.driver.refine import run_refined
from orchestrator.driver.sweep import Outcome, run_sweep
from orchestrator.report.report import write_report
from orchestrator.report.terminal import (
    critical_bracket,
    critical_interval,
    critical_strengths_table,
    critical_value,
)
from orchestrator.results.folder import check_folder, claim_folder
from orchestrator.runtime.progress import Silent
from tests.support.small import sweep, tree

NOISE = {
    "name": "noise",
    "defense": [{"kind": "noise"}],
    "strength": {"path": "defense.0.sigma", "weak": 1e-4, "strong": 1e2, "points": 3},
    "refine": 2,
}


def thresholds(faces_root: Path) -> SweepConfig:
    """The analytic attack on an mlp: exact without noise, the mean image where noise hides all."""
    changed = tree(
        faces_root,
        cells=[{"name": "none"}],
        attackers=[{"name": "auto", "attack": {"kind": "auto", "fallback": {"iterations": 20}}}],
        victims={"tuning": 0, "test": 4},
    )
    return with_thresholds(build(SweepConfig, changed | {"thresholds": [NOISE]}, where="test"))


def test_a_sweep_file_gets_the_cells_of_its_grids(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(
        "name: s\ncells: [{name: none}]\nthresholds:\n"
        "  - name: bits\n    defense: [{kind: quantise}]\n"
        "    strength: {path: defense.0.bits, weak: 8, strong: 1, points: 4, integer: true}\n"
    )
    config = load_sweep(file)
    assert [cell.name for cell in config.cells] == ["none", "bits_8", "bits_4", "bits_2", "bits_1"]
    values = [threshold_value(config.thresholds[0], cell) for cell in config.cells]
    assert values == [None, 8.0, 4.0, 2.0, 1.0]


def test_two_cells_of_one_name_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(
        "name: s\ncells: [{name: bits_8}]\nthresholds:\n  - name: bits\n    defense: [{kind: quantise}]\n"
        "    strength: {path: defense.0.bits, weak: 8, strong: 1, points: 2, integer: true}\n"
    )
    with pytest.raises(InputError, match="different names"):
        load_sweep(file)


@pytest.mark.slow
def test_a_threshold_is_found_and_refined_and_resumed(faces_root: Path, tmp_path: Path) -> None:
    config, runs = thresholds(faces_root), list[int]()

    def run(wanted: SweepConfig) -> Outcome:
        runs.append(len(wanted.cells))
        return run_sweep(wanted, tmp_path, address="serial", reporter=Silent())

    outcome = run_refined(config, tmp_path, run)
    # The grid brackets both crossings between two strengths, and each refinement halves what is left.
    assert len(runs) == 3
    assert runs[0] == 4
    assert runs[0] < runs[1] < runs[2]
    assert outcome.fresh == outcome.trials == 4 * runs[-1]
    summary = summary_lines(tmp_path)
    critical = critical_lines(tmp_path, summary)
    found = critical_frame(critical).set_index("criterion")
    # Four images cannot show 5%, and four victims have no interval: it is the brackets that are known.
    assert found["side"].to_dict() == {"gain": "inside", "success": "refused", "none": "inside"}
    assert found["strengths"].tolist() == [runs[-1] - 1] * 3
    inside = found.drop(index="success")
    assert inside["critical"].between(inside["bracket_weaker"], inside["bracket_stronger"]).all()
    assert (inside["bracket_stronger"] / inside["bracket_weaker"]).max() < 1.01 * 10**0.75
    assert inside[["weaker", "stronger"]].isna().all(axis=None)
    again = run_refined(config, tmp_path, run)
    assert (again.fresh, again.trials) == (0, outcome.trials)

    page = write_report(tmp_path, summary).read_text()
    assert "Critical strength" in page
    assert "defense.0.sigma" in page
    assert "Intervals need 5 victims." in page
    kept = pd.read_parquet(tmp_path / "thresholds.parquet")
    pd.testing.assert_series_equal(kept["critical"], found["critical"].reset_index(drop=True))
    console = Console(file=io.StringIO(), width=120)
    console.print(critical_strengths_table(critical))
    text = " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]
    assert "noise: defense.0.sigma" in text
    # The budget of refinements ended it, and the table says so.
    assert not kept["resolved"].any()
    assert "* Strengths lie too far apart" in text
    assert "5% of 4 images is less than one image" in text


@pytest.mark.slow
def test_more_refinements_extend_a_folder_and_fewer_keep_what_is_there(
    faces_root: Path, tmp_path: Path
) -> None:
    def refined(times: int) -> tuple[Outcome, int]:
        config = thresholds(faces_root)
        threshold = dataclasses.replace(config.thresholds[0], refine=times)
        outcome = run_refined(
            dataclasses.replace(config, thresholds=(threshold,)),
            tmp_path,
            lambda wanted: run_sweep(wanted, tmp_path, address="serial", reporter=Silent()),
        )
        return outcome, min(line.strengths for line in critical_lines(tmp_path, summary_lines(tmp_path)))

    grid = refined(0)
    more = refined(1)
    assert more[0].fresh == more[0].trials - grid[0].trials > 0
    assert more[1] > grid[1] == 3
    assert refined(0) == (Outcome(trials=more[0].trials, fresh=0, failed=0), more[1])


def test_further_strengths_extend_a_folder_and_other_cells_do_not(faces_root: Path, tmp_path: Path) -> None:
    config = thresholds(faces_root)
    claim_folder(tmp_path, config)
    fewer = build(SweepConfig, tree(faces_root), where="test")
    with pytest.raises(InputError, match="holds another sweep"):
        check_folder(tmp_path, fewer, finished=True)
    assert check_folder(tmp_path, config, finished=True)


@pytest.mark.parametrize(("side", "text"), [("before", "<= 0.01"), ("inside", "0.01"), ("after", "> 0.01")])
def test_strengths_beyond_the_measured_ones_are_bounds(
    side: Literal["before", "inside", "after"], text: str
) -> None:
    line = CriticalLine(
        threshold="noise",
        strength="defense.0.sigma",
        attacker="auto",
        criterion=GAIN,
        side=side,
        critical=0.01,
        interval=Ends(weaker=math.nan, stronger=0.1),
        victims=5,
        strengths=4,
        accuracy=0.8,
        bracket=Ends(weaker=0.001, stronger=math.nan),
        resolved=False,
        images=5,
    )
    assert critical_value(line) == text
    assert critical_interval(line) == "[.., 0.1]"
    assert critical_interval(dataclasses.replace(line, victims=4)) == "-"
    assert critical_bracket(line) == ("0.001, .. *" if side == "inside" else "0.001, ..")


def test_a_sweep_without_thresholds_has_no_critical_strengths(faces_root: Path, tmp_path: Path) -> None:
    run_sweep(sweep(faces_root), tmp_path, address="serial", reporter=Silent(), cells=["none"])
    lines = summary_lines(tmp_path)
    assert critical_lines(tmp_path, lines) == []
    write_report(tmp_path, lines)
    assert not (tmp_path / "thresholds.parquet").exists()
