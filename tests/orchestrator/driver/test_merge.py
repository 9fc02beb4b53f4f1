"""Folders of one sweep become one: the same rows, the same report, whole or not at all."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from fl_core.base.errors import InputError
from orchestrator.analysis.summary import summarize, summary_lines
from orchestrator.config.sweep import SweepConfig
from orchestrator.driver.merge import merge_folders
from orchestrator.driver.sweep import run_sweep
from orchestrator.io.files import unsealed, write_json
from orchestrator.report.report import write_report
from orchestrator.results.schema import trials_schema
from orchestrator.results.store import ResultStore, StudyRow, read_images
from orchestrator.results.utility_files import write_utility
from orchestrator.runtime.progress import Silent
from tests.support.paths import ROOT
from tests.support.results_folder import row, suggestion, trial, write_folder
from tests.support.small import comparable, sweep

TIMES = ["seconds", "cpu_seconds"]


@pytest.fixture(scope="module")
def whole(faces_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    run_sweep(sweep(faces_root), out, address="serial", reporter=Silent())
    return out


@pytest.fixture(scope="module")
def cells(faces_root: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The sweep's two cells, each run alone, as the elements of a job array are."""
    folder = tmp_path_factory.mktemp("cells")
    for name in ("none", "dp"):
        run_sweep(sweep(faces_root), folder / name, address="serial", reporter=Silent(), cells=[name])
    return [folder / "dp", folder / "none"]


def bare(folder: Path, **more: Any) -> SweepConfig:
    """The common sweep without a search, as `write_folder` has it."""
    return sweep(folder, attackers__0__search={}, **more)


def plain(folder: Path, name: str, trials: Any, **more: Any) -> Path:
    """A small folder of the common sweep; a seed makes it another one's."""
    return write_folder(folder / name, trials, config=bare(folder, **more))


@pytest.mark.slow
def test_merged_cells_are_the_sweep_in_one_folder(
    whole: Path, cells: list[Path], faces_root: Path, tmp_path: Path
) -> None:
    out = tmp_path / "merged"
    merged = merge_folders(cells, out)
    assert (merged.trials, merged.failed) == (26, 0)
    pd.testing.assert_frame_equal(comparable(whole), comparable(out))
    left, right = (pd.read_parquet(folder / "studies") for folder in (whole, out))
    pd.testing.assert_frame_equal(left, right)
    left, right = (summarize(folder).drop(columns=TIMES) for folder in (whole, out))
    pd.testing.assert_frame_equal(left, right)
    pictures = [read_images(folder).to_pandas().sort_values("trial_id") for folder in (whole, out)]
    assert pictures[0]["trial_id"].tolist() == pictures[1]["trial_id"].tolist()
    assert pictures[0]["reconstruction"].tolist() == pictures[1]["reconstruction"].tolist()
    assert len(list((out / "trials").glob("*.parquet"))) == 1
    again = run_sweep(sweep(faces_root), out, address="serial", reporter=Silent())
    assert (again.trials, again.fresh) == (26, 0), "the merged folder goes on like any other"


def test_the_report_is_the_same_to_the_byte(whole: Path, tmp_path: Path) -> None:
    """The very rows of one run, parted by cell and merged again."""
    for name in ("none", "dp"):
        part = tmp_path / name
        shutil.copytree(whole, part, ignore=shutil.ignore_patterns("captures", "*.html", "figures", ".lock*"))
        kept: set[str] = set()
        for kind in ("trials", "images", "studies"):
            for path in (part / kind).glob("*.parquet"):
                table = pq.read_table(path)
                if kind == "trials":
                    mine = [cell == name for cell in table.column("cell").to_pylist()]
                    kept = set(table.filter(mine).column("trial_id").to_pylist())
                elif kind == "images":
                    mine = [trial in kept for trial in table.column("trial_id").to_pylist()]
                else:
                    mine = [study.startswith(f"{name}/") for study in table.column("study").to_pylist()]
                pq.write_table(table.filter(mine), path)
    merge_folders([tmp_path / "none", tmp_path / "dp"], tmp_path / "merged")
    pages = [
        write_report(folder, summary_lines(folder)).read_bytes() for folder in (whole, tmp_path / "merged")
    ]
    assert pages[0] == pages[1]


def test_what_two_folders_both_hold_is_taken_once_and_must_be_the_same(tmp_path: Path) -> None:
    common = trial(row(victim=2, host="here"), pictures=True)
    one = plain(tmp_path, "one", [common, trial(row(victim=3))])
    two = plain(tmp_path, "two", [trial(row(victim=2, host="there", seconds=9.0), pictures=True)])
    assert merge_folders([one, two], tmp_path / "out").trials == 2
    rows = pd.read_parquet(tmp_path / "out" / "trials")
    assert sorted(zip(rows["victim"], rows["host"].fillna("-"), strict=True)) == [(2, "here"), (3, "-")]
    assert read_images(tmp_path / "out").num_rows == 1
    other = plain(tmp_path, "other", [trial(row(victim=2, psnr=16.0))])
    with pytest.raises(
        InputError, match=r"Trial none-generic-test-None-2 has another result in .*other than in "
    ):
        merge_folders([one, other], tmp_path / "refused")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "other", "out", "two"]


def test_suggestions_unite_and_results_win_over_questions(tmp_path: Path) -> None:
    asked = StudyRow("none/generic", 0, {"lr": 0.1}, "asked", None, ())
    for name, found in (
        ("one", asked),
        ("two", suggestion(0, 12.0, lr=0.1)),
        ("three", suggestion(0, 13.0, lr=0.1)),
    ):
        write_folder(
            tmp_path / name, [trial(row(victim=len(name)))], suggestions=[found], config=bare(tmp_path)
        )
    merge_folders([tmp_path / "one", tmp_path / "two"], tmp_path / "out")
    studies = pd.read_parquet(tmp_path / "out" / "studies")
    assert studies[["state", "value"]].values.tolist() == [["ok", 12.0]]
    with pytest.raises(InputError, match=r"Suggestion 0 of study none/generic ended otherwise in .*three"):
        merge_folders([tmp_path / "two", tmp_path / "three"], tmp_path / "refused")


def measured(folder: Path, cell: str, accuracy: float) -> None:
    result = {"accuracy": accuracy, "low": 0.6, "high": 0.9, "majority": 0.6, "diverged": False}
    result |= {"images": 10, "per_round": [accuracy]}
    write_utility(folder / "utility" / "same.json", cells=[cell], spec={}, result=result)


def test_cells_that_share_an_accuracy_share_its_file(tmp_path: Path) -> None:
    for name in ("none", "dp"):
        folder = plain(tmp_path, name, [trial(row(name))])
        measured(folder, name, 0.8)
    folders = [tmp_path / "dp", tmp_path / "none"]
    merge_folders(folders, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "utility" / "same.json").read_bytes())["cells"] == ["none", "dp"]
    measured(tmp_path / "none", "dp", 0.7)
    with pytest.raises(InputError, match=r"accuracy run same has another result in .*none than in .*dp"):
        merge_folders(folders, tmp_path / "refused")


def test_what_does_not_fit_is_refused_by_name(tmp_path: Path) -> None:
    one, two = (plain(tmp_path, name, [trial(row(victim=i))]) for i, name in enumerate(("one", "two")))
    other = plain(tmp_path, "other", [trial(row(victim=5))], study__suggestions=6)
    out, empty = tmp_path / "out", tmp_path / "empty"
    empty.mkdir()
    for folders, message in (
        ([one, other], r"other holds another sweep than .*one: study\.suggestions is 6 there and 5 here"),
        ([one, one], "one is given twice"),
        ([one, empty], r"empty holds no sweep: .*sweep\.json is missing"),
    ):
        with pytest.raises(InputError, match=message):
            merge_folders(folders, out)
    with pytest.raises(InputError, match="two is there already"):
        merge_folders([one], two)
    with ResultStore(two, trials_schema([])), pytest.raises(InputError, match="two is in use"):
        merge_folders([one, two], out)
    part = next((two / "trials").glob("*.parquet"))
    pq.write_table(pq.read_table(part).replace_schema_metadata({"gradsweep": "1"}), part)
    with pytest.raises(InputError, match="schema version 1, this gradsweep writes and reads"):
        merge_folders([one, two], out)
    write_json(two / "sweep.json", unsealed((two / "sweep.json").read_bytes()) | {"format": 1})
    with pytest.raises(InputError, match=r"sweep\.json has format 1"):
        merge_folders([one, two], out)
    assert not out.exists()
    assert not list(tmp_path.glob("_*"))


@pytest.mark.slow
def test_a_merge_that_is_killed_leaves_nothing_that_looks_whole(tmp_path: Path) -> None:
    folders = [plain(tmp_path, name, [trial(row(victim=i))]) for i, name in enumerate(("one", "two"))]
    out = tmp_path / "out"
    code = f"""
import os, pathlib, signal
from orchestrator.driver import merge
merge._unite_utility = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
merge.merge_folders([pathlib.Path(p) for p in {[str(folder) for folder in folders]!r}], pathlib.Path({str(out)!r}))
"""
    killed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=120)
    assert killed.returncode == -9, killed.stderr
    assert not out.exists()
    (left,) = tmp_path.glob("_out-*")
    assert list(left.glob("trials/*.parquet"))
    assert not (left / "sweep.json").exists()
    assert merge_folders(folders, out).trials == 2
