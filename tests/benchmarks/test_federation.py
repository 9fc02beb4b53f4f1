"""The client-simulation benchmark runs on a tiny setting, and says so where Flower is missing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT


@pytest.mark.slow
def test_a_tiny_comparison_without_flower(tmp_path: Path) -> None:
    blocked = tmp_path / "no-folder"
    blocked.write_text("an environment cannot be made where a file lies")
    tiny = "--models mlp:16 --clients 10 --sampled 4 --rounds 3 --repeats 1 --cores 1 --only speed --json"
    folders = ["--faces", str(tmp_path), "--peer-env", str(blocked)]
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "federation.py"), *tiny.split(), *folders],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    ours, flower = (json.loads(line) for line in done.stdout.splitlines())
    assert set(ours) == {"name", "value", "unit", "target", "ok", "spread", "n"}
    assert ours["name"] == "ours, mlp 16x16, 4 of 10 clients"
    assert ours["value"] > 0
    assert ours["n"] == 2, "the first of three rounds is left out"
    assert flower["value"] is None
    assert str(blocked) in flower["reason"]
