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


@pytest.mark.slow
def test_a_run_in_one_process_is_seen_by_part(tmp_path: Path) -> None:
    """A tiny sweep through this checkout's own command line; parts add up to the whole."""
    sweep = tmp_path / "tiny.yaml"
    sweep.write_text(
        "name: tiny\nseed: 1\ndata: {kind: synthetic, root: data, train: 24, valid: 8, public: 16, "
        "synthetic_images: 64}\nmodel: {kind: cnn64, image_size: 16}\nfederation: {clients: 4, rounds: 1}\n"
        "victims: {tuning: 0, test: 1}\nexecution: {device: cpu}\nattackers:\n  - name: matching\n"
        "    attack: {kind: matching, iterations: 3}\n"
    )
    report = tmp_path / "report.json"
    subprocess.run(
        [
            *(sys.executable, "-P", str(FOLDER / "quickstart_case.py"), str(report)),
            *("sweep", str(sweep), "--out", str(tmp_path / "out"), "--address", "serial"),
        ],
        check=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
    )
    found = json.loads(report.read_text())
    assert {"attack", "control", "scoring", "capture", "driver", "imports"} <= found["parts"].keys()
    assert all(seconds >= 0.0 for seconds in found["parts"].values())
    assert sum(found["parts"].values()) == pytest.approx(found["cpu"])
