"""The quickstart's time against an older commit of this repository, with the mean PSNR of every cell beside.

python benchmarks/quickstart.py [--commit 5e8b774] [--runs N] [--small] [--workers N] [--set KEY=VALUE ...]
    [--their-path DIR] [--json]

The older commit is checked out into a temporary folder, which is removed afterwards. Both sides run the same sweep
file, this one's, with the same faces, alternately, in processes of their own. Without --workers a side runs in one
process, and its CPU seconds are shown by part; with it, on Ray with so many workers, and the wall time is what is
compared, beside the share of the time from the first trial's start to the last one's end in which workers had a job.
`--small` cuts the sweep to a fifth, for a machine that is busy; --set changes it as `gradsweep sweep` does.

Libraries that only the older commit needs are looked for in --their-path:
python -m pip install --no-deps --target DIR piq
"""

# ruff: noqa: E402 - the path has to be put right before anything is imported

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
# A benchmark beside this one has the name of a package: the repository comes before this file's folder.
sys.path.insert(0, str(ROOT))

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq
from result_line import line

from fl_core.data.synthetic.faces import write_faces

COMMIT = "5e8b774"
TARGET = 0.5
"""Of the older commit's time that the quickstart may take."""
BUSY = 0.95
"""Of the time between the first trial and the last that workers have to be busy."""
ACCURACY = "utility:"
"""What the keys of jobs begin with that are no trials."""
LOST_DB = 0.1
"""By how much a cell's mean PSNR may be lower."""
FACES = 2000
"""What `data.kind: synthetic` writes."""
SMALL = (
    *("study.suggestions=2", "study.startup=1", "study.lag=1", "victims.tuning=1", "victims.test=3"),
    "federation.rounds=1",
)
"""20 trials in the place of 88, and accuracy runs of one round in the place of three."""

Line = dict[str, Any]


class SideFailed(Exception):
    """A side's process ended with an error."""


@dataclass(frozen=True)
class Run:
    """One side's run: wall and CPU seconds of all its processes, the latter by part, and mean PSNR by cell.

    `busy` is the share of the workers' time that jobs took (`share_of_workers`).
    """

    wall: float
    cpu: float
    parts: dict[str, float]
    psnr: dict[str, float]
    busy: float | None = None


@dataclass(frozen=True)
class Job:
    """One job on a worker: its key, the worker's process, and when it began and ended there, in seconds."""

    key: str
    process: int
    begun: float
    ended: float


def share_of_workers(jobs: Sequence[Job], workers: int) -> float:
    """The share of so many workers' time that jobs took, from the first trial's start to the last one's end.

    Accuracy runs are jobs too, but no trials. A worker that has nothing left to do at the end counts as idle.
    """
    trials = [job for job in jobs if not job.key.startswith(ACCURACY)]
    first, last = min(job.begun for job in trials), max(job.ended for job in trials)
    taken = sum(max(min(job.ended, last) - max(job.begun, first), 0.0) for job in jobs)
    return taken / (workers * (last - first))


@dataclass(frozen=True)
class Bench:
    """What both sides are run with."""

    scratch: Path
    changes: Sequence[str]
    workers: int | None

    def run(self, root: Path, name: str, extra: str = "") -> Run:
        """One run of the checkout `root`; raises `SideFailed` with the end of what it printed."""
        out, report, log = (self.scratch / f"{name}{end}" for end in ("", ".json", ".log"))
        where = ("--address", "serial")
        if self.workers:
            where = ("--address", "local", "--set", f"execution.workers={self.workers}")  # type: ignore[assignment]
        changes = [part for change in self.changes for part in ("--set", change)]
        sweep = [
            "sweep",
            str(ROOT / "sweeps" / "quickstart.yaml"),
            "--out",
            str(out),
            "--yes",
            *where,
            *changes,
        ]
        environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{extra}", "OMP_NUM_THREADS": "1"}
        with log.open("w") as printed:
            begun = time.perf_counter()
            process = subprocess.Popen(
                [sys.executable, "-P", str(HERE / "quickstart_case.py"), str(report), *sweep],
                cwd=self.scratch,
                env=environment,
                stdout=printed,
                stderr=subprocess.STDOUT,
            )
            seen = _watched(process)
        wall = time.perf_counter() - begun
        if process.returncode:
            raise SideFailed(f"{root} ended with code {process.returncode}:\n{log.read_text()[-2000:]}")
        noted = json.loads(report.read_text())
        parts = noted["parts"] if self.workers is None else {}
        busy = share_of_workers([Job(*job) for job in noted["jobs"]], self.workers) if self.workers else None
        return Run(wall, seen, parts, _mean_psnr(out / "trials"), busy)


def _watched(process: subprocess.Popen[bytes]) -> float:
    """CPU seconds of a process and of all that it started, as looked at until it ends."""
    spent: dict[int, float] = {}
    while process.poll() is None:
        spent |= _below(process.pid)
        time.sleep(0.2)
    return sum(spent.values())


def _below(root: int) -> dict[int, float]:
    """CPU seconds of every process under `root`, itself included, by its id; of its own on systems without /proc."""
    found: dict[int, tuple[int, float]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The name, in parentheses, may hold anything.
            entries = path.read_text().rpartition(")")[2].split()
            seconds = sum(map(int, entries[11:13])) / os.sysconf("SC_CLK_TCK")
            found[int(path.parent.name)] = (int(entries[1]), seconds)
    chosen, below = {root}, {root}
    while below:
        below = {child for child, (parent, _) in found.items() if parent in below} - chosen
        chosen |= below
    return {each: found[each][1] for each in chosen if each in found}


def _mean_psnr(trials: Path) -> dict[str, float]:
    """The mean over test victims by cell and attacker."""
    rows = pq.read_table(trials, columns=["cell", "attacker", "phase", "psnr"]).to_pylist()
    kept: dict[str, list[float]] = {}
    for row in rows:
        if row["phase"] == "test" and row["psnr"] is not None:
            kept.setdefault(f"{row['cell']} / {row['attacker']}", []).append(row["psnr"])
    return {name: statistics.fmean(values) for name, values in sorted(kept.items())}


@contextlib.contextmanager
def checkout(commit: str, folder: Path) -> Iterator[Path]:
    """A worktree of the commit in `folder`, which is taken away again."""
    git = ("git", "-C", str(ROOT), "worktree")
    subprocess.run([*git, "add", "--detach", str(folder), commit], check=True, capture_output=True)
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=True, capture_output=True)


def lines_of(ours: Sequence[Run], theirs: Sequence[Run], *, by_wall: bool) -> list[Line]:
    """The result lines: times and their ratios in pairs, parts where they are known, and every cell's PSNR."""
    found = []
    for kind in ("wall", "cpu"):
        mine, other = ([getattr(run, kind) for run in side] for side in (ours, theirs))
        ratios = [a / b for a, b in zip(mine, other, strict=True)]
        target = TARGET if (kind == "wall") == by_wall else None
        found += [
            line(f"{kind}: ours", statistics.median(mine), "s", mine),
            line(f"{kind}: theirs", statistics.median(other), "s", other),
            line(
                f"{kind}: ours / theirs", statistics.median(ratios), "x", ratios, target=target, at_most=True
            ),
        ]
    for name, side in (("ours", ours), ("theirs", theirs)):
        shares = [run.busy for run in side if run.busy is not None]
        if shares:
            target = BUSY if name == "ours" else None
            found.append(line(f"workers busy: {name}", statistics.median(shares), "x", shares, target=target))
    for part in ours[0].parts:
        for name, side in (("ours", ours), ("theirs", theirs)):
            values = [run.parts.get(part, 0.0) for run in side]
            found.append(line(f"{part}: {name}", statistics.median(values), "CPU-s", values))
    for cell, level in ours[0].psnr.items():
        gain = level - theirs[0].psnr[cell]
        found.append(line(f"{cell}: PSNR", level, "dB", [level]))
        found.append(line(f"{cell}: PSNR, ours less theirs", gain, "dB", [gain], target=-LOST_DB))
    return found


def main() -> int:
    """Measure and print; exit code 1 where a target is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--commit", default=COMMIT, help="the older commit")
    parser.add_argument("--runs", type=int, default=1, help="pairs of runs")
    parser.add_argument("--small", action="store_true", help="a fifth of the sweep")
    parser.add_argument("--workers", type=int, help="workers on Ray (one process, with its parts)")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="changes of the sweep")
    parser.add_argument("--their-path", default="", help="libraries that only the older commit needs")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    changes = [*(SMALL if options.small else ()), *options.set]
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        write_faces(scratch / "data" / "synthetic_faces" / f"seed0_num{FACES}", num=FACES)
        bench = Bench(scratch, changes, options.workers)
        ours: list[Run] = []
        theirs: list[Run] = []
        with checkout(options.commit, scratch / "older") as older:
            for number in range(options.runs):
                theirs.append(bench.run(older, f"theirs{number}", options.their_path))
                ours.append(bench.run(ROOT, f"ours{number}"))
    lines = lines_of(ours, theirs, by_wall=options.workers is not None)
    for entry in lines:
        goal = "" if entry["target"] is None else f"target {entry['target']:g}"
        text = f"{entry['name']:45s} {entry['value']:10.3g} {entry['unit']:5s} {goal:12s}"
        print(json.dumps(entry) if options.json else f"{text}{'' if entry['ok'] else ' MISSED'}".rstrip())
    return 0 if all(entry["ok"] for entry in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
