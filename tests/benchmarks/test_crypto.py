"""The benchmark of secure sums keeps to the contract of benchmarks, and says what is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT


def run(environment: dict[str, str]) -> list[dict[str, object]]:
    command = [sys.executable, str(ROOT / "benchmarks" / "crypto.py"), "--only", "estimates", "--json"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return [json.loads(text) for text in done.stdout.splitlines()]


@pytest.mark.slow
def test_estimates_of_whole_networks() -> None:
    pytest.importorskip("phe", reason="the extra paillier is not installed: Paillier is not checked")
    lines = run({**os.environ, "PYTHONPATH": str(ROOT)})
    assert [line["unit"] for line in lines] == ["s", "MB", "s", "MB"]
    for line in lines:
        assert line.keys() == {"name", "value", "unit", "target", "ok", "spread", "n"}
    # 8,760,962 numbers, 63 to a ciphertext of 512 bytes.
    assert lines[3]["value"] == pytest.approx(71.2, rel=0.001)
    assert lines[2]["n"] == 5


def test_a_missing_library_is_a_line(tmp_path: Path) -> None:
    (tmp_path / "gmpy2.py").write_text("raise ModuleNotFoundError('hidden by the test', name='gmpy2')\n")
    (line,) = run({**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"})
    assert line["value"] is None
    assert "pip install gmpy2 phe" in str(line["reason"])
