"""What `--dry-run` says a sweep takes against what it then takes: the small form of every suite.

    python benchmarks/dry_run.py [--json] [--suites realism batch] [--data-root DIR]

Both are CPU seconds of one worker, so that what else the machine does counts for little. A ratio is the estimate over
what was taken; the target is from 1/2 to 2.
"""

from __future__ import annotations

import sys
from pathlib import Path

# This folder has an `orchestrator.py` of its own.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import argparse
import json
import resource
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

from orchestrator.config.parse import load_sweep
from orchestrator.driver.plan import check_plan, make_plan, measured
from orchestrator.suites.catalog import SUITES, sweep_file

SWEEPS = ("batch", "local_steps", "models", "hpo_compare")
"""Sweeps of this project that have no script of their own."""
ALL_CELLS = ["*"]
FACTOR = 2.0
"""How far off an estimate may be."""


def parts() -> dict[str, tuple[str, ...]]:
    """The sweep files of each suite, by its name."""
    return {name: suite.parts for name, suite in SUITES.items()} | {name: (name,) for name in SWEEPS}


def estimated(part: str, overrides: Sequence[str]) -> float:
    """The CPU seconds that the dry run says."""
    config = load_sweep(sweep_file(part), overrides)
    check_plan(config, ALL_CELLS)
    plan = measured(make_plan(config, ALL_CELLS), lambda _: None)
    assert plan.paces is not None
    return plan.totals(plan.paces).cpu_hours(None) * 3600


def taken(part: str, overrides: Sequence[str]) -> float:
    """The CPU seconds of the sweep, its start and its report among them; raises `CalledProcessError` if it fails."""
    with tempfile.TemporaryDirectory(prefix="gradsweep-") as folder:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        flags = [word for text in overrides for word in ("--set", text)]
        out = ["--out", str(Path(folder) / "out"), "--address", "serial"]
        command = [sys.executable, "-m", "orchestrator", "sweep", str(sweep_file(part)), *out, *flags]
        subprocess.run(command, check=True, capture_output=True)  # this project's own command
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def results(names: Sequence[str], overrides: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A line for each suite."""
    for name in names:
        said = sum(estimated(part, overrides) for part in parts()[name])
        was = sum(taken(part, overrides) for part in parts()[name])
        ratio = said / was
        yield {
            "name": f"dry run of {name}: estimate over reality",
            "value": ratio,
            "unit": "ratio",
            "target": FACTOR,
            "ok": 1 / FACTOR <= ratio <= FACTOR,
            "spread": 0.0,
            "n": 1,
            "estimated_s": said,
            "taken_s": was,
        }


def main() -> None:
    """Print the lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one object a line")
    parser.add_argument("--suites", nargs="+", choices=sorted(parts()), default=sorted(parts()))
    parser.add_argument("--data-root", default="data", help="CelebA; synthetic faces where it is not there")
    given = parser.parse_args()
    overrides = ["scale=small", f"data.root={given.data_root}"]
    for found in results(given.suites, overrides):
        if given.json:
            print(json.dumps(found), flush=True)
        else:
            print(
                f"{found['name']}: {found['value']:.2f} "
                f"({found['estimated_s']:.0f} s said, {found['taken_s']:.0f} s taken)",
                flush=True,
            )


if __name__ == "__main__":
    main()
