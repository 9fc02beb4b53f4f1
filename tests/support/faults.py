"""Sweeps that are disturbed for real, and what must hold at their end."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from ruamel.yaml import YAML

from orchestrator.analysis.summary import summarize
from orchestrator.cli.main import execute
from orchestrator.config.plain import build
from orchestrator.config.sweep import SweepConfig
from orchestrator.results.journal import FinishedTrial, Journal
from orchestrator.results.store import read_images
from tests.support.forked import Child
from tests.support.small import comparable, tree

SMALL: dict[str, Any] = {
    "study__suggestions": 3,
    "victims": {"tuning": 1, "test": 2},
    "attackers__0__attack__iterations": 30,
}
"""Two cells with three suggestions on one victim and two test victims each."""

TRIALS = 2 * (3 + 2)

CHANGING = ["seconds", "cpu_seconds"]
"""Columns of a summary that no two runs share."""


def config(root: Path, **changes: Any) -> SweepConfig:
    """The sweep of the fault tests."""
    return build(SweepConfig, tree(root, **(SMALL | changes)), where="test")


def write_file(folder: Path, root: Path, **changes: Any) -> Path:
    """The same as a sweep file."""
    path = folder / "faults.yaml"
    YAML(typ="safe", pure=True).dump(tree(root, **(SMALL | changes)), path)
    return path


def command(file: Path, out: Path, address: str = "serial") -> list[str]:
    """The command line that runs or resumes the sweep."""
    return [
        *(sys.executable, "-m", "orchestrator", "sweep", str(file)),
        *("--out", str(out), "--address", address),
    ]


def start(line: list[str], log: Path) -> Child:
    """The command in a process of its own; what it says goes to the file `log`."""
    _, _, _, *arguments = line
    return Child(arguments, log)


def complete(line: list[str]) -> None:
    """Run the command's sweep to its good end, in this process."""
    _, _, _, *arguments = line
    assert execute(arguments) == 0


def finished(out: Path) -> int:
    """How many trials the folder holds; an estimate while a sweep writes there."""
    logged = {entry.trial_id for entry in Journal(out).entries() if isinstance(entry, FinishedTrial)}
    if list(out.glob("trials/part-*.parquet")):
        logged |= set(pd.read_parquet(out / "trials")["trial_id"])
    return len(logged)


def await_that(holds: Callable[[], Any], child: Child, log: Path) -> Any:
    """Wait until something holds, while the process lives."""
    end = time.monotonic() + 300
    while not (found := holds()):
        assert child.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.02)
    return found


def children(process: int) -> dict[int, str]:
    """The process's descendants with their titles, as Linux has them."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    found: dict[int, str] = {}
    wanted = {process}
    while wanted:
        wanted = {child for child, parent in parents.items() if parent in wanted}
        found |= {child: title(child) for child in wanted}
    return found


def title(process: int) -> str:
    """The command line of a process, empty where it has ended."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def busy_workers(driver: int) -> list[int]:
    """Ray's workers under a driver that run something right now: their title then names it."""
    return [
        child
        for child, name in children(driver).items()
        if name.startswith("ray::") and "IDLE" not in name and "." in name
    ]


def named(driver: int, program: str) -> int:
    """The process under a driver that runs this program."""
    found = {child: name.split() for child, name in children(driver).items()}
    (one,) = [child for child, words in found.items() if words and Path(words[0]).name == program]
    return one


def ended(process: int) -> bool:
    """Whether a process is gone, or only waits to be buried."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


def assert_same_end(undisturbed: Path, out: Path) -> None:
    """One result for each trial, no unfinished write, and the rows, studies and summary of the undisturbed run."""
    os.sync()
    rows = pd.read_parquet(out / "trials")
    assert rows["trial_id"].nunique() == TRIALS
    assert not rows.duplicated(["trial_id", "image_id"]).any()
    pd.testing.assert_frame_equal(comparable(undisturbed), comparable(out))
    studies = [pd.read_parquet(folder / "studies") for folder in (undisturbed, out)]
    pd.testing.assert_frame_equal(*studies)
    summaries = [summarize(folder).drop(columns=CHANGING) for folder in (undisturbed, out)]
    pd.testing.assert_frame_equal(*summaries)
    pictures = [
        read_images(folder).sort_by([("trial_id", "ascending"), ("image_id", "ascending")])
        for folder in (undisturbed, out)
    ]
    assert pictures[0].equals(pictures[1])
    assert not [path for path in out.rglob("_*") if path.is_file()]
    assert not list(out.glob(".owner-*"))
    assert (out / "pending.jsonl").read_bytes() == b""
