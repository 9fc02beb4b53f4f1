"""Which code made a result: commit and versions."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import orchestrator

_PACKAGES = (
    "gradsweep",
    "torch",
    "torchvision",
    "ray",
    "optuna",
    "numpy",
    "scipy",
    "dp-accounting",
    "pytorch-msssim",
)

_DECIDING = (
    "fl_core",
    "defenses",
    "attack_core",
    "orchestrator/capture",
    "orchestrator/execute",
    "orchestrator/trial",
)
"""The code between a setting and its figures; the rest chooses settings and writes down figures."""


@cache
def code_digest() -> str:
    """20 hexadecimal digits of the text of all code that decides a figure, committed or not."""
    home = Path(orchestrator.__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for path in sorted(path for room in _DECIDING for path in (home / room).rglob("*.py")):
        digest.update(f"{path.relative_to(home).as_posix()}:".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:20]


def provenance() -> dict[str, str | None]:
    """The columns `git_commit` (null outside a checkout, unless GIT_COMMIT names one) and `versions` (JSON)."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {"git_commit": _commit(), "versions": json.dumps(versions)}


def _commit() -> str | None:
    """`GIT_COMMIT` where the environment sets it, else the commit of the checkout that this file is tracked in."""
    if named := os.environ.get("GIT_COMMIT"):
        return named
    home = Path(orchestrator.__file__).resolve().parents[1]
    tracked = _git(home, "ls-files", "--error-unmatch", str(Path(__file__).resolve()))
    answer = _git(home, "rev-parse", "--show-toplevel", "HEAD") if tracked else None
    if answer is None:
        return None
    top, commit = answer.splitlines()
    return commit if Path(top).resolve() == home else None


def _git(folder: Path, *words: str) -> str | None:
    """What git prints in `folder`, or None where it fails; variables such as `GIT_DIR` name no other repository."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("GIT_") or name.startswith("GIT_CONFIG")
    }
    try:
        done = subprocess.run(
            ["git", *words],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
