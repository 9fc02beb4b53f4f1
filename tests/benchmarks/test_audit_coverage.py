"""The benchmark of an audit's predictions: its figures are right, and a second run goes on from a file."""

from __future__ import annotations

import json
import runpy
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from orchestrator.calibration.prediction import Simulated
from orchestrator.calibration.seen import Seen
from tests.support.benchmarks import benchmark
from tests.support.paths import ROOT

SCRIPT = ROOT / "benchmarks" / "audit_coverage.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return runpy.run_path(str(SCRIPT), run_name="audit_coverage")


def _pictures(root: Path) -> None:
    draws = np.random.default_rng(0)
    for split, count in (("train", 16), ("test", 3)):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                coarse = draws.integers(0, 256, (4, 4, 3), dtype=np.uint8)
                picture = Image.fromarray(coarse).resize((32, 32), Image.Resampling.BICUBIC)
                picture.save(root / split / name / f"{i}.png")


def _run(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    counts = ("--victims", "2", "--clients", "3", "--calibrations", "2")
    return benchmark("audit_coverage", "--data-root", str(root), "--json", *counts, *arguments)


def test_exact_answers_are_predicted_and_kept(tmp_path: Path) -> None:
    _pictures(tmp_path)
    arguments = ("--settings", "mlp, trained, 5 steps", "--rows", str(tmp_path / "rows.jsonl"))
    done = _run(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    coverage, error, width = (json.loads(text) for text in done.stdout.splitlines())
    assert (coverage["value"], coverage["victims"], coverage["calibrations"]) == (100.0, 2, 2)
    assert coverage["low"] < 50, "two victims say little"
    assert (error["value"], width["value"]) == (0.0, 0.0)
    kept = (tmp_path / "rows.jsonl").read_text().splitlines()
    assert len(kept) == 3 * 2 + 2
    again = _run(tmp_path, *arguments)
    assert again.stdout == done.stdout, "CPU seconds too: nothing was attacked a second time"
    assert (tmp_path / "rows.jsonl").read_text().splitlines() == kept


def _row(script: dict[str, Any], number: int, *values: float) -> Any:
    seen = Seen(outcome="matching", loss=0.1, grain=0.1, rough=0.1, apart=0.1)
    images = [Simulated(client=number, seen=seen, psnr=value, prior=10.0) for value in values]
    return script["Row"](images=images, seconds=1.0)


def test_coverage_is_the_share_of_victims_within_the_interval(script: dict[str, Any]) -> None:
    simulated = [_row(script, i, float(20 + i)) for i in range(5)]
    victims = [_row(script, 0, 22.0), _row(script, 1, 20.0), _row(script, 2, 40.0)]
    reached = script["Reached"](simulated=simulated, victims=victims)
    coverage, error, _ = script["lines"]("a", reached, 5)
    assert coverage["value"] == pytest.approx(200 / 3)
    assert not coverage["ok"]
    assert error["value"] == pytest.approx(2.0)


def test_victims_that_always_miss_together_count_once(script: dict[str, Any]) -> None:
    independent = script["independent"]
    same = np.tile(np.repeat([1.0, 1.0, 0.0, 1.0], 10), (5, 1))
    assert independent(same) <= 40
    draws = np.random.default_rng(0)
    assert independent((draws.random((5, 400)) < 0.9).astype(float)) > 400
    assert independent(np.ones((5, 40))) == 40


def test_wrong_folders_are_one_line(tmp_path: Path) -> None:
    done = _run(tmp_path, "--settings", "mlp")
    assert done.returncode == 2
    assert "is no folder of images" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
