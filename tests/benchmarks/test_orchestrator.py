"""The benchmark of the orchestrator measures the package, though its file has the package's name."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.paths import ROOT

BENCHMARK = ROOT / "benchmarks" / "orchestrator.py"


@pytest.mark.slow
def test_the_benchmark_finds_the_package_and_not_itself() -> None:
    answer = subprocess.run(
        [sys.executable, str(BENCHMARK), "--help"], capture_output=True, text=True, check=True, timeout=100
    )
    assert "Ray Tune" in answer.stdout
