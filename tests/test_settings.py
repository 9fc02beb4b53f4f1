"""Reading and checking a sweep file needs no numerical library: what computes is imported where it computes."""

from __future__ import annotations

import subprocess
import sys

from tests.support.paths import ROOT

HEAVY = ("torch", "numpy", "scipy", "optuna", "ray", "pandas", "matplotlib", "torchvision", "pyarrow")


def test_every_sweep_file_is_read_without_a_library() -> None:
    files = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "sweeps").rglob("*.yaml"))
    assert len(files) > 20
    probe = f"""
import sys
from pathlib import Path
from orchestrator.config.parse import load_sweep
for file in {files!r}:
    load_sweep(Path(file))
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
