"""The quickstart's benchmark: its result lines, and that a side's run is seen by part."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.support.paths import ROOT

FOLDER = ROOT / "benchmarks"


@pytest.fixture
def quickstart(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)
    spec = importlib.util.spec_from_file_location("quickstart_benchmark", FOLDER / "quickstart.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("by_wall", [False, True])
def test_the_target_is_on_the_time_that_is_compared_and_on_every_cell(
    quickstart: ModuleType, by_wall: bool
) -> None:
    ours = quickstart.Run(wall=4.0, cpu=3.0, parts={"attack": 2.0}, psnr={"none / auto": 30.0})
    theirs = quickstart.Run(wall=8.0, cpu=5.0, parts={"attack": 4.0}, psnr={"none / auto": 30.2})
    lines: dict[str, dict[str, Any]] = {
        entry["name"]: entry for entry in quickstart.lines_of([ours], [theirs], by_wall=by_wall)
    }
    wall, cpu = lines["wall: ours / theirs"], lines["cpu: ours / theirs"]
    assert (wall["value"], cpu["value"]) == (0.5, 0.6)
    assert (wall["target"], cpu["target"]) == ((0.5, None) if by_wall else (None, 0.5))
    assert wall["ok"] and cpu["ok"] is by_wall
    lost = lines["none / auto: PSNR, ours less theirs"]
    assert lost["value"] == pytest.approx(-0.2)
    assert not lost["ok"]
    assert lines["attack: theirs"]["value"] == 4.0


def test_workers_are_busy_while_they_have_a_job_between_the_first_trial_and_the_last(
    quickstart: ModuleType,
) -> None:
    """Two workers and ten seconds: one has trials for six of them, the other an accuracy run and a late trial."""
    jobs = [
        quickstart.Job("a", 1, 100.0, 104.0),
        quickstart.Job("b", 1, 104.0, 106.0),
        quickstart.Job("utility:x", 2, 95.0, 105.0),
        quickstart.Job("c", 2, 106.0, 110.0),
    ]
    assert quickstart.share_of_workers(jobs, 2) == pytest.approx((4.0 + 2.0 + 5.0 + 4.0) / 20.0)


@pytest.mark.parametrize(("busy", "ok"), [(0.96, True), (0.9, False)])
def test_the_share_of_busy_workers_has_a_target(quickstart: ModuleType, busy: float, ok: bool) -> None:
    ours, theirs = (quickstart.Run(wall=1.0, cpu=1.0, parts={}, psnr={}, busy=share) for share in (busy, 0.5))
    lines = {entry["name"]: entry for entry in quickstart.lines_of([ours], [theirs], by_wall=True)}
    assert (lines["workers busy: ours"]["target"], lines["workers busy: ours"]["ok"]) == (0.95, ok)
    assert lines["workers busy: theirs"]["target"] is None


TINY = (
    "name: tiny\nseed: 1\ndata: {kind: synthetic, root: data, train: 24, valid: 8, public: 16, "
    "synthetic_images: 64}\nmodel: {kind: cnn64, image_size: 16}\nfederation: {clients: 4, rounds: 1}\n"
    "victims: {tuning: 0, test: 1}\nexecution: {device: cpu}\nattackers:\n  - name: matching\n"
    "    attack: {kind: matching, iterations: 3}\n"
)


def reported(folder: Path, address: str) -> dict[str, Any]:
    """What the case says of a tiny sweep through this checkout's own command line."""
    sweep, report = folder / "tiny.yaml", folder / "report.json"
    sweep.write_text(TINY)
    subprocess.run(
        [
            *(sys.executable, "-P", str(FOLDER / "quickstart_case.py"), str(report)),
            *("sweep", str(sweep), "--out", str(folder / "out"), "--address", address),
        ],
        check=True,
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
    )
    found: dict[str, Any] = json.loads(report.read_text())
    return found


@pytest.mark.slow
def test_jobs_on_workers_are_noted(tmp_path: Path) -> None:
    (job,) = reported(tmp_path, "local")["jobs"]
    _, process, begun, ended = job
    assert process > 0
    assert ended > begun


@pytest.mark.slow
def test_a_run_in_one_process_is_seen_by_part(tmp_path: Path) -> None:
    """Its parts add up to the whole."""
    found = reported(tmp_path, "serial")
    assert {"attack", "control", "scoring", "capture", "driver", "imports"} <= found["parts"].keys()
    assert all(seconds >= 0.0 for seconds in found["parts"].values())
    assert sum(found["parts"].values()) == pytest.approx(found["cpu"])
