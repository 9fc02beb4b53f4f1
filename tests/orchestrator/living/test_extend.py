"""A sweep file that gained cells, attackers, seeds or victims extends its folder: what is there is not run again."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from fl_core.base.errors import InputError
from orchestrator.analysis.summary import summarize
from orchestrator.config.parse import load_sweep
from orchestrator.config.plain import to_plain
from orchestrator.config.sweep import SweepConfig
from orchestrator.driver.sweep import run_sweep
from orchestrator.runtime.progress import Silent
from tests.support.command import gradsweep
from tests.support.paths import ROOT
from tests.support.small import TREE, comparable, run_quietly, sweep

CELLS: list[dict[str, Any]] = TREE["cells"]
GENERIC: dict[str, Any] = TREE["attackers"][0]
CLIPPED = {"name": "clipped", "defense": [{"kind": "clip", "max_norm": 0.1}]}
OTHER = {
    "name": "other",
    "attack": {"kind": "matching", "iterations": 4},
    "search": {"tv_weight": {"kind": "float", "low": 1e-6, "high": 1e-2, "log": True}},
}
"""Searches what the first attacker does not, which gives the table a column."""
LARGER = {"cells": [CLIPPED, *CELLS], "attackers": [GENERIC, OTHER], "victims__test": 4}


@pytest.fixture(scope="module")
def small(faces_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("small")
    run_quietly(sweep(faces_root), out)
    return out


@pytest.fixture
def out(small: Path, tmp_path: Path) -> Path:
    shutil.copytree(small, tmp_path / "out")
    return tmp_path / "out"


def run(config: SweepConfig, out: Path) -> Any:
    return run_sweep(config, out, address="serial", reporter=Silent())


@pytest.mark.slow
def test_an_extended_folder_is_that_of_the_larger_sweep(
    faces_root: Path, small: Path, out: Path, tmp_path: Path
) -> None:
    larger = sweep(faces_root, **LARGER)
    outcome = run(larger, out)
    # Two cells with one more victim; one more cell, and one more attacker in all three.
    assert outcome.fresh == 2 * 1 + 4 * (5 * 2 + 4)
    assert outcome.failed == 0
    run(larger, tmp_path / "at once")
    pd.testing.assert_frame_equal(comparable(out), comparable(tmp_path / "at once"))
    before = comparable(small)
    kept = comparable(out).set_index("trial_id").loc[before["trial_id"]].reset_index()
    # Whole numbers of a column that now has gaps are floats in pandas.
    pd.testing.assert_frame_equal(kept[before.columns], before, check_dtype=False)
    table = summarize(out)
    assert list(table["cell"].drop_duplicates()) == ["clipped", "none", "dp"]
    assert list(table["n"]) == [4] * 6
    assert run(larger, out).fresh == 0


@pytest.mark.slow
def test_seeds_and_an_attacker_at_once(faces_root: Path, out: Path) -> None:
    outcome = run(sweep(faces_root, seeds=2, attackers=[GENERIC, OTHER]), out)
    assert outcome.trials == 2 * 2 * 2 * (5 * 2 + 3)
    assert outcome.fresh == outcome.trials - 26


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cells": CELLS[:1]}, r"the cell 'dp' is gone; use another"),
        ({"cells": [CELLS[0], {**CELLS[1], "name": "dp1"}]}, r"'dp' is gone \(renamed to 'dp1'\?"),
        ({"attackers": [OTHER]}, r"the attacker 'generic' is gone"),
        (
            {"attackers": [OTHER, {**GENERIC, "attack": {"kind": "matching", "iterations": 9}}]},
            r"attackers\.generic\.attack\.iterations was 8 and is now 9",
        ),
        (
            {"cells": [CLIPPED, CELLS[0], {**CELLS[1], "differs": {"threat.labels": "known"}}]},
            r"cells\.dp\.differs\.threat\.labels was null and is now .known",
        ),
        (
            {"victims__tuning": 3},
            r"victims\.tuning was 2 and is now 3; use another --out\. A folder takes further",
        ),
        ({"model__image_size": 20, "cells": [CLIPPED, *CELLS]}, r"model\.image_size was 16 and is now 20"),
        ({"data__train": 30}, r"data\.train was 24 and is now 30"),
    ],
)
def test_what_may_not_change_is_said_by_name(
    changes: dict[str, Any], said: str, faces_root: Path, out: Path
) -> None:
    before = comparable(out)
    with pytest.raises(InputError, match=said):
        run(sweep(faces_root, **changes), out)
    pd.testing.assert_frame_equal(comparable(out), before)


@pytest.mark.slow
def test_a_folder_of_an_older_version_is_extended(faces_root: Path, out: Path) -> None:
    """Settings and columns that were added since are missing in it."""
    path = out / "sweep.json"
    noted = json.loads(path.read_text())
    del noted["checksum"], noted["config"]["seeds"], noted["config"]["study"]["prune"]
    del noted["config"]["thresholds"], noted["config"]["attackers"][0]["sampler"]
    path.write_text(json.dumps(noted))
    part = next((out / "trials").glob("*.parquet"))
    table = pq.read_table(part)
    older = table.drop_columns(["sweep_seed", "packing", "study"]).replace_schema_metadata({"gradsweep": "4"})
    pq.write_table(older, part)
    assert run(sweep(faces_root, **LARGER), out).fresh == 2 + 4 * 14
    rows = pd.read_parquet(out / "trials")
    assert len(rows) == 26 + 2 + 4 * 14
    assert list(summarize(out)["n"]) == [4] * 6
    assert json.loads(path.read_text())["config"]["seeds"] == 1


@pytest.mark.slow
def test_studies_that_are_gained_start_warm_and_the_others_stay(
    faces_root: Path, small: Path, tmp_path: Path
) -> None:
    def warm(**changes: Any) -> SweepConfig:
        return sweep(faces_root, study__warm_start=str(small), **changes)

    run(warm(), tmp_path / "out")
    noted = json.loads((tmp_path / "out" / "warm_start.json").read_text())["studies"]
    run(warm(cells=[*CELLS, CLIPPED]), tmp_path / "out")
    now = json.loads((tmp_path / "out" / "warm_start.json").read_text())["studies"]
    assert {study: now[study] for study in noted} == noted
    assert set(now) - set(noted) == {"clipped/generic"}
    run(warm(cells=[*CELLS, CLIPPED]), tmp_path / "at once")
    pd.testing.assert_frame_equal(comparable(tmp_path / "out"), comparable(tmp_path / "at once"))


def quickstart(root: Path, folder: Path, **changes: Any) -> Path:
    """A file with the quickstart's cells and attackers in a small form, which takes seconds."""
    text = (ROOT / "sweeps" / "quickstart.yaml").read_text(encoding="utf-8")
    path = folder / "quickstart.yaml"
    path.write_text(text)
    config = load_sweep(
        path,
        [
            f"data.root={root}",
            "data.kind=celeba",
            *("data.train=24", "data.valid=12", "data.public=8"),
            *("model.kind=mlp", "model.image_size=16", "utility=null", "victims.tuning=1"),
            *("study.suggestions=2", "study.startup=1", "study.lag=1", "execution.device=cpu"),
        ],
    )
    tree = copy.deepcopy(to_plain(config))
    tree["attackers"][0]["attack"]["iterations"] = 4
    tree["attackers"][1]["attack"]["analytic"]["inversion"]["evaluations"] = 8
    for name, value in changes.items():
        tree[name] = [*tree[name], *value] if isinstance(value, list) else {**tree[name], **value}
    path.write_text(json.dumps(tree))
    return path


@pytest.mark.slow
def test_a_finished_quickstart_takes_a_cell_an_attacker_and_four_victims(
    faces_root: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = gradsweep("sweep", quickstart(faces_root, tmp_path), "--out", out, "--address", "serial")
    assert first.returncode == 0, first.stderr
    assert "32 trials, 32 of them run now, 0 failed." in first.stdout
    larger = quickstart(faces_root, tmp_path, cells=[CLIPPED], attackers=[OTHER], victims={"test": 10})
    second = gradsweep("sweep", larger, "--out", out, "--address", "serial")
    assert second.returncode == 0, second.stderr
    # Three cells and attackers, two suggestions on one tuning victim and ten test victims each; 4 x 8 were there.
    assert "108 trials, 76 of them run now, 0 failed." in second.stdout
    for cell in ("none", "dp-eps8", "clipped"):
        for attacker in ("generic", "auto", "other"):
            assert f"{cell} / {attacker}" in second.stdout
    table = summarize(out)
    assert len(table) == 9
    assert list(table["n"]) == [10] * 9
    status = json.loads(gradsweep("status", out, "--json").stdout)
    assert (status["state"], status["trials"]) == ("finished", {"done": 108, "planned": 108})
