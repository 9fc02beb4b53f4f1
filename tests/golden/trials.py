"""The golden trials: run `golden.yaml` and read its figures; `python -m tests.golden.trials` writes `figures.json`."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from orchestrator.config.parse import load_sweep
from orchestrator.driver.sweep import run_sweep
from orchestrator.runtime.progress import Silent

HERE = Path(__file__).parent
FIGURES = HERE / "figures.json"
SWEEP = load_sweep(HERE / "golden.yaml")
TOLERANCE_DB = 0.1
"""For other processors and library builds, which round differently; on one machine figures are equal to 1e-6 dB."""
WIDER_DB = {
    "none / analytic": 0.2,
    "inputs / auto": 1.2,
    "representation / analytic": 0.2,
    "secure-sum / analytic": 0.6,
    "secure-sum / auto": 0.6,
    "steps / analytic": 1.5,
    "steps / auto": 1.5,
}
"""Trials that rounding moves further, as their searches end midway.

Measured on one machine with AVX-512, AVX2 and SSE kernels: at most 0.08, 0.2, 0.08, 0.3 and 0.8 dB, in this order. A
decoding of the last convolution's input that adds up in another order, and finds it to the same 8e-7, moved
`inputs / auto` by 1.0 dB with AVX-512 kernels and by 0.1 with AVX2. Inputs that were off by 3e-8 and 8e-7 more, drawn
ten times, moved an image of `secure-sum / auto` by 0.2 dB down and 0.4 up.
"""


def measured(folder: Path, cells: Sequence[str] = ("*",)) -> dict[str, dict[str, Any]]:
    """What each golden trial of `cells` ended with, by cell and attacker.

    Runs them in `folder`, with synthetic faces in it; those that ran there before are not run again.
    """
    before = Path.cwd()
    os.chdir(folder)
    try:
        run_sweep(SWEEP, folder / "results", address="serial", reporter=Silent(), cells=cells)
    finally:
        os.chdir(before)
    rows = pd.read_parquet(folder / "results" / "trials")
    found = {}
    for (cell, attacker), group in rows.sort_values(["cell", "attacker", "image_id"]).groupby(
        ["cell", "attacker"]
    ):
        first = group.iloc[0]
        found[f"{cell} / {attacker}"] = {
            "status": first["status"],
            "method": first["method"],
            "psnr": [None if pd.isna(value) else round(float(value), 6) for value in group["psnr"]],
        }
    return found


def main() -> None:
    """Write `figures.json` anew: after a change that means to change figures, with the reason in the commit."""
    argparse.ArgumentParser(description=main.__doc__).parse_args()
    with tempfile.TemporaryDirectory() as name:
        trials = measured(Path(name))
        row = pd.read_parquet(Path(name) / "results" / "trials").iloc[0]
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=HERE, capture_output=True, text=True, check=True
    ).stdout.strip()
    content = {
        "command": "python -m tests.golden.trials",
        "commit": commit,
        "versions": json.loads(row["versions"]),
        "tolerance_db": TOLERANCE_DB,
        "wider_db": WIDER_DB,
        "trials": trials,
    }
    FIGURES.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
