"""Small sweeps for tests: seconds on one core, real in every part."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from orchestrator.axes.paths import put
from orchestrator.config.plain import build
from orchestrator.config.sweep import SweepConfig
from orchestrator.driver.sweep import run_sweep
from orchestrator.runtime.progress import Silent

TREE: dict[str, Any] = {
    "name": "small",
    "seed": 5,
    "data": {"kind": "celeba", "train": 24, "valid": 12, "public": 8},
    "model": {"kind": "mlp", "image_size": 16},
    "federation": {"clients": 4, "rounds": 2, "local": {"lr": 0.05}},
    "victims": {"tuning": 2, "test": 3},
    "study": {"suggestions": 5, "lag": 2, "startup": 2},
    "execution": {"device": "cpu"},
    "cells": [
        {"name": "none"},
        {"name": "dp", "defense": [{"kind": "dp_update", "epsilon": 1e6, "max_norm": 1.0}]},
    ],
    "attackers": [
        {
            "name": "generic",
            "attack": {"kind": "matching", "iterations": 8, "schedule": "cosine"},
            "search": {
                "lr": {"kind": "float", "low": 0.01, "high": 0.3, "log": True},
                "restarts": {"kind": "int", "low": 1, "high": 2},
                "init": {"kind": "choice", "choices": ["normal", "fourier"]},
            },
        }
    ],
}

TIMES = ["seconds", "cpu_seconds", "peak_memory_mb", "host", "started_at", "versions", "git_commit"]


def tree(root: Path, **changes: Any) -> dict[str, Any]:
    """The small sweep on the faces in `root`, with dotted changes."""
    import copy

    copied = copy.deepcopy(TREE)
    put(copied, "data.root", str(root), where="test")
    for path, value in changes.items():
        put(copied, path.replace("__", "."), value, where="test")
    return copied


def sweep(root: Path, **changes: Any) -> SweepConfig:
    """The same, validated."""
    return build(SweepConfig, tree(root, **changes), where="test")


def both(attack: dict[str, Any]) -> list[dict[str, Any]]:
    """The same attack by who takes a defended signal for a plain one and by who uses what it knows of the defense."""
    return [
        {"name": "generic", "attack": attack, "uses_facts": False},
        {"name": "adaptive", "attack": attack},
    ]


def run_quietly(config: SweepConfig, out: Path) -> pd.DataFrame:
    """Run a sweep in this process; its rows."""
    run_sweep(config, out, address="serial", reporter=Silent())
    return pd.read_parquet(out / "trials")


def comparable(out: Path) -> pd.DataFrame:
    """All rows in a fixed order, without what may differ between runs."""
    rows = pd.read_parquet(out / "trials").drop(columns=TIMES)
    return rows.sort_values(["trial_id", "image_id"]).reset_index(drop=True)


def run(config: Any, out: Path, address: str = "serial", cells: Sequence[str] = ("*",)) -> Any:
    return run_sweep(config, out, address=address, reporter=Silent(), cells=cells)
