"""Client simulation beside Flower's: seconds a round and peak memory, on the same model, data and clients.

python benchmarks/federation.py [--models MODEL:SIZE ...] [--clients N] [--sampled N] [--images N] [--rounds N]
    [--repeats N] [--lr R] [--cores N] [--faces DIR] [--peer-env DIR] [--only speed|memory] [--device cpu] [--json]

Both sides run in processes of their own, in turns: ours, Flower's, ours, ... Each start's first round, in which
workers start and libraries are loaded, is left out, and so is judging the weights between rounds. Flower pins its own
Ray, so it gets an environment of its own (made in DIR, by default build/flower) that borrows this one's PyTorch.
CPU seconds and memory are those of all processes of a side together, Ray's among them (Linux only). CPU seconds of a
round hold the judging too; memory is the greatest proportional set size of two samples a second.
"""

from __future__ import annotations

import sys
from pathlib import Path

# A benchmark beside this one has the name of a package: the repository comes before its folder.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sysconfig
import tempfile
import threading
import time
import venv
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
from federation_case import Case, Judge
from result_line import line, missing

from fl_core.data.synthetic.faces import write_faces
from fl_core.federation.simulator import ClientWork
from fl_core.federation.training import train
from orchestrator.execute.execute import make_executor
from orchestrator.execute.simulation import PooledSimulator

ROOT = Path(__file__).parent.parent
FLOWER = "flwr[simulation]==1.42.0"
TARGET = 2.0
"""How many times faster than Flower a round has to be."""
FLAT = 1.1
"""How many times the memory of 100 clients ten times as many may take."""
LOSS = 0.1
"""How far the two sides' last losses may be apart, as a share of Flower's: they sample other clients."""

NO_PROC = "this system has no /proc to read it from"


class PeerMissing(Exception):
    """Flower's environment cannot be made; the message says why."""


@dataclass
class Side:
    """What one side's runs of a case gave."""

    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    peaks: list[float] = field(default_factory=list)


def simulate(case: Case) -> None:
    """Our side, in a process of its own: one JSON line a round."""
    torch.set_num_threads(1)
    judge, federation = Judge(case), case.federation()
    executor = make_executor("local", workers=case.cores, threads=1)
    try:
        rounds = train(
            PooledSimulator(executor, ClientWork(federation=federation), threads=1),
            case.start(),
            rounds=case.rounds,
        )
        start = time.perf_counter()
        for result in rounds:
            seconds = time.perf_counter() - start
            loss = judge.loss(result.state)
            print(
                json.dumps({"round": result.round + 1, "seconds": seconds, "loss": loss}),
                flush=True,
            )
            start = time.perf_counter()
    finally:
        executor.close()


def peer_python(folder: Path) -> Path:
    """Flower's interpreter, whose environment is made where it is missing; raises `PeerMissing`."""
    python = folder / "bin" / "python"
    try:
        if not python.is_file():
            venv.create(folder, with_pip=True)
        subprocess.run(
            [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", FLOWER],
            check=True,
            capture_output=True,
            text=True,
        )
        where = subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        # After Flower's own packages on the path: PyTorch and the like are this environment's, Ray is not.
        (Path(where) / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
        subprocess.run([python, "-c", "import flwr, ray, torch"], check=True, capture_output=True, text=True)
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        lines = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
        raise PeerMissing(f"no environment with {FLOWER} in {folder}: {lines[-1]}") from error
    return python


def run(command: list[str], side: Side) -> None:
    """One start of a side: its rounds but the first, its last loss and its peak memory go into `side`."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")]),
        "OMP_NUM_THREADS": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    rounds, cpu = [], []
    with tempfile.TemporaryFile("w+") as problems:
        child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=problems, text=True)
        assert child.stdout is not None
        with child.stdout, peak_memory(child.pid) as peak:
            for text in child.stdout:
                if text.startswith('{"round"'):
                    rounds.append(json.loads(text))
                    cpu.append(sum(map(_cpu_seconds, _tree(child.pid))))
        problems.seek(0)
        if child.wait() or not rounds:
            raise RuntimeError(f"{command[0]} ended with {child.returncode}: {problems.read()[-2000:]}")
    side.seconds += [entry["seconds"] for entry in rounds[1:]]
    side.cpu += [after - before for before, after in pairwise(cpu)]
    side.losses.append(rounds[-1]["loss"])
    side.peaks.append(max(peak, default=0.0))


@contextlib.contextmanager
def peak_memory(root: int) -> Iterator[list[float]]:
    """A list that fills with the memory (MB) of the process `root` and all below it, until the block ends."""
    found: list[float] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.5):
            found.append(sum(map(_share, _tree(root))))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield found
    finally:
        over.set()
        watcher.join()


def _tree(root: int) -> list[int]:
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The name, in parentheses, may hold anything; the parent is the second field after it.
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    below, found = [root], [root]
    while below:
        below = [child for child, parent in parents.items() if parent in below]
        found += below
    return found


def _cpu_seconds(pid: int) -> float:
    with contextlib.suppress(OSError):
        times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        return sum(map(int, times)) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _share(pid: int) -> float:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1000
    return 0.0


def ours(case: Case, side: Side) -> None:
    """One start of our side."""
    run([sys.executable, str(Path(__file__)), "--simulate", case.written()], side)


def flower(python: Path, case: Case, side: Side) -> None:
    """One start of Flower's side; imported and not run as a script, so that its functions travel by name."""
    run([str(python), "-c", "import flower_peer; flower_peer.main()", case.written()], side)


def compare(case: Case, python: Path | None, reason: str, repeats: int) -> list[dict[str, Any]]:
    """The lines of one case."""
    mine, theirs = Side(), Side()
    for _ in range(repeats):
        ours(case, mine)
        if python:
            flower(python, case, theirs)
    what = f"{case.model} {case.size}x{case.size}, {case.sampled} of {case.clients} clients"
    lines = [line(f"ours, {what}", statistics.median(mine.seconds), "s/round", mine.seconds)]
    if not python:
        return [*lines, missing(f"flower, {what}", "s/round", reason)]
    seconds, loss = statistics.median(theirs.seconds), statistics.median(theirs.losses)
    ratio = seconds / lines[0]["value"]
    apart = abs(statistics.median(mine.losses) - loss) / loss
    return [
        *lines,
        line(f"flower, {what}", seconds, "s/round", theirs.seconds),
        line(f"flower / ours, {what}", ratio, "x", [ratio], target=TARGET),
        processes("CPU seconds, ours", statistics.median(mine.cpu), "CPU-s/round", mine.cpu),
        processes("CPU seconds, flower", statistics.median(theirs.cpu), "CPU-s/round", theirs.cpu),
        line("last loss, ours", statistics.median(mine.losses), "", mine.losses),
        line("last loss, flower", loss, "", theirs.losses),
        line("losses apart", apart, "", [apart], target=LOSS, at_most=True),
        processes("peak memory, ours", max(mine.peaks), "MB", mine.peaks),
        processes("peak memory, flower", max(theirs.peaks), "MB", theirs.peaks),
    ]


def memory(case: Case, python: Path | None, reason: str) -> list[dict[str, Any]]:
    """Peak memory with few and many clients, and with few and many of them in a round."""
    few = replace(case, clients=case.clients // 10, sampled=case.clients // 10, rounds=3)
    many = replace(few, clients=case.clients)
    crowded = replace(many, sampled=case.clients, rounds=2)
    if not Path("/proc").is_dir():
        return [missing("memory", "MB", NO_PROC)]
    lines = []
    for name in ("ours", "flower"):
        if name == "flower" and not python:
            lines.append(missing("memory of flower", "MB", reason))
            continue
        found = []
        for setting in (few, many, crowded):
            side = Side()
            if name == "ours" or python is None:
                ours(setting, side)
            else:
                flower(python, setting, side)
            found.append(side.peaks[0])
            what = f"{setting.model}, {setting.sampled} of {setting.clients} clients"
            lines.append(line(f"peak memory, {name}, {what}", found[-1], "MB", [found[-1]]))
        for what, value in (("clients", found[1] / found[0]), ("participants", found[2] / found[1])):
            limit = FLAT if name == "ours" else None
            label = f"memory, {name}, {many.clients} / {few.clients} {what}"
            lines.append(line(label, value, "x", [value], target=limit, at_most=True))
    return lines


def processes(name: str, value: float, unit: str, values: list[float]) -> dict[str, Any]:
    """The line of what is read from /proc, or why it is missing."""
    return line(name, value, unit, values) if Path("/proc").is_dir() else missing(name, unit, NO_PROC)


def faces(folder: Path, train: int) -> Path:
    """Synthetic faces with at least `train` of them for training, written where they are missing."""
    target = folder / f"faces{train}"
    if not target.is_dir():
        # Three of four are for training.
        scratch = target.with_name(f"_{target.name}")
        write_faces(scratch, num=train * 4 // 3 + 8, seed=0)
        scratch.replace(target)
    return target


def main() -> int:
    """Measure and print; exit code 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["lenet:32", "cnn64:64"], metavar="MODEL:SIZE")
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--sampled", type=int, default=100)
    parser.add_argument("--images", type=int, default=10, help="images that each client holds")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--faces", type=Path, help="where synthetic faces lie or are written [build/faces]")
    parser.add_argument("--peer-env", type=Path, default=ROOT / "build" / "flower")
    parser.add_argument("--only", choices=["speed", "memory"], help="one of the two comparisons [both]")
    parser.add_argument(
        "--device", choices=["cpu"], default="cpu", help="Flower's side is written for the CPU"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--simulate", metavar="CASE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.simulate:
        simulate(Case.read(options.simulate))
        return 0
    python, reason = None, ""
    try:
        python = peer_python(options.peer_env.absolute())
    except PeerMissing as error:
        reason = str(error)
    lines = []
    for number, named in enumerate(options.models):
        model, _, size = named.partition(":")
        case = Case(
            faces="",
            model=model,
            size=int(size),
            clients=options.clients,
            sampled=options.sampled,
            images=options.images,
            rounds=options.rounds,
            lr=options.lr,
            cores=options.cores,
        )
        case = replace(case, faces=str(faces(options.faces or ROOT / "build" / "faces", case.train)))
        if options.only != "memory":
            lines += compare(case, python, reason, options.repeats)
        if number == 0 and options.only != "speed":
            lines += memory(case, python, reason)
    for entry in lines:
        if options.json:
            print(json.dumps(entry))
        elif entry["value"] is None:
            print(f"{entry['name']:55s} {'-':>10s} {entry['reason']}")
        else:
            print(
                f"{entry['name']:55s} {entry['value']:10.3g} {entry['unit']:12s} {'' if entry['ok'] else 'MISSED'}"
            )
    return 0 if all(entry["ok"] for entry in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
