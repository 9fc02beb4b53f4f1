"""One run of a sweep file in this process, with its CPU seconds by part: of this checkout, or of an older one.

python benchmarks/quickstart_case.py REPORT sweep FILE --out DIR ...    # with the checkout on PYTHONPATH

What follows REPORT is a command line of `gradsweep`. The file REPORT gets one JSON object: {"wall", "cpu", "parts",
"jobs"}. With `--address serial` everything happens in this process; on Ray only the driver's own parts are seen, and
`jobs` says when each job began and ended on which worker. Needs nothing but names that old checkouts have too.
"""

# ruff: noqa: E402 - the clock starts before anything else is imported

from __future__ import annotations

import time

BEGUN = time.perf_counter()

import functools
import importlib
import json
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PLACES: dict[str, tuple[tuple[str, str], ...]] = {
    "capture": (
        ("orchestrator.capture.store:CaptureSource", "get"),
        ("orchestrator.capture:CaptureSource", "get"),
    ),
    "attack": (("orchestrator.trial.run", "_attack"), ("orchestrator.trial", "_attack")),
    "scoring": (("orchestrator.trial.run", "scores_of"), ("orchestrator.trial", "_score")),
    "accuracy": (
        ("orchestrator.study.utility_runs", "run_utility"),
        ("orchestrator.utility_runs", "run_utility"),
    ),
    "sweep": (("orchestrator.driver.sweep", "run_sweep"), ("orchestrator.sweep", "run_sweep")),
}
"""Each part's function: today's place, and the one before the packages had rooms."""
CONTROL = (("orchestrator.trial.run", "norm_matched_noise"), ("orchestrator.trial", "norm_matched_noise"))
"""What an attack's control begins with; it ends with the attack."""

SUBMIT = (
    ("orchestrator.execute.execute:RayExecutor", "submit"),
    ("orchestrator.execute:RayExecutor", "submit"),
)
"""What hands a job to a worker."""


@dataclass(frozen=True)
class Noted:
    """A job that adds a line to the file `path`: its key, its process, and when it began and ended there."""

    work: Callable[..., Any]
    key: str
    path: Path

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """See the class; the clock is one for all processes of a machine."""
        begun = time.monotonic()
        try:
            return self.work(*arguments, **options)
        finally:
            entry = [self.key, os.getpid(), begun, time.monotonic()]
            with self.path.open("a") as file:
                file.write(json.dumps(entry) + "\n")


def note_jobs(path: Path) -> None:
    """Have every job on a worker noted in the file `path`; raises `LookupError` as `install` does."""
    holder, name = _place(SUBMIT)
    submit = getattr(holder, name)

    @functools.wraps(submit)
    def noted(self: Any, key: str, function: Callable[..., Any], *arguments: Any) -> None:
        submit(self, key, Noted(function, key, path), *arguments)

    setattr(holder, name, noted)


class Clock:
    """CPU seconds of this process by part; a part that calls another one counts for itself alone."""

    def __init__(self) -> None:
        self.parts: dict[str, float] = defaultdict(float)
        self._inner = [0.0]
        self._control: float | None = None

    def watch(self, part: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """`work`, whose time counts for `part`."""

        @functools.wraps(work)
        def watched(*args: Any, **options: Any) -> Any:
            self._inner.append(0.0)
            begun = time.process_time()
            try:
                return work(*args, **options)
            finally:
                ended = time.process_time()
                if part == "attack" and self._control is not None:
                    self.parts["control"] += ended - self._control
                    self.parts["attack"] -= ended - self._control
                    self._control = None
                self.parts[part] += ended - begun - self._inner.pop()
                self._inner[-1] += ended - begun

        return watched

    def control(self, noise: Callable[..., Any]) -> Callable[..., Any]:
        """`noise`, from whose call on what is left of an attack counts for `control`."""

        @functools.wraps(noise)
        def watched(*args: Any, **options: Any) -> Any:
            self._control = time.process_time()
            return noise(*args, **options)

        return watched


def install(clock: Clock) -> None:
    """Put the clock around every part; raises `LookupError` where a checkout has none of its places."""
    for part, places in PLACES.items():
        holder, name = _place(places)
        setattr(holder, name, clock.watch(part, getattr(holder, name)))
    holder, name = _place(CONTROL)
    setattr(holder, name, clock.control(getattr(holder, name)))


def _place(places: Sequence[tuple[str, str]]) -> tuple[Any, str]:
    """The module or class that has a function, and the function's name there."""
    for owner, name in places:
        module, _, kind = owner.partition(":")
        try:
            found: Any = importlib.import_module(module)
        except ModuleNotFoundError:
            continue
        holder = getattr(found, kind, None) if kind else found
        if hasattr(holder, name):
            return holder, name
    raise LookupError(f"this checkout has none of {places}")


def command_line() -> Callable[[], Any]:
    """The checkout's own `gradsweep`."""
    try:
        return importlib.import_module("orchestrator.cli.main").main  # type: ignore[no-any-return]
    except ModuleNotFoundError:
        return importlib.import_module("orchestrator.cli").main  # type: ignore[no-any-return]


def main() -> int:
    """Run the command line that follows the report's path."""
    report = Path(sys.argv[1])
    sys.argv = ["gradsweep", *sys.argv[2:]]
    clock = Clock()
    install(clock)
    jobs = report.with_suffix(".jobs")
    jobs.touch()
    note_jobs(jobs)
    run = command_line()
    clock.parts["imports"] = time.process_time()
    try:
        run()
    except SystemExit as ended:
        if ended.code:
            raise
    spent = time.process_time()
    # The driver: what `run_sweep` does itself. The rest is the report.
    clock.parts["driver"] = clock.parts.pop("sweep", 0.0)
    clock.parts["report"] = spent - sum(clock.parts.values())
    noted = [json.loads(entry) for entry in jobs.read_text().splitlines()]
    found = {
        "wall": time.perf_counter() - BEGUN,
        "cpu": spent,
        "parts": dict(clock.parts),
        "jobs": noted,
    }
    report.write_text(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
