"""Which code made a result: commit and versions."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from orchestrator.store import Row

_PACKAGES = ("gradsweep", "torch", "torchvision", "ray", "optuna", "numpy", "scipy", "dp-accounting", "piq")


def provenance() -> Row:
    """The columns `git_commit` (null outside a checkout, unless GIT_COMMIT is set) and `versions` (JSON)."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {"git_commit": _commit(), "versions": json.dumps(versions)}


def _commit() -> str | None:
    if named := os.environ.get("GIT_COMMIT"):
        return named
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
