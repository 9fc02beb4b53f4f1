"""How a sweep stands: trials done, best so far, pace, failures by message, and whether a driver works on it."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from fl_core.base.decibels import EXACT_DB
from fl_core.base.errors import InputError, alike
from orchestrator.io.places import check_folder_there
from orchestrator.report.reader import Results
from orchestrator.report.remaining import Pair, pairs
from orchestrator.results.lease import Owner, owner_of
from orchestrator.results.there import NoResults, no_sweep
from orchestrator.runtime.progress import ENOUGH

FORMAT = 1
"""Of `Status.plain`: a key that changes its meaning, or goes, raises it; a key that is added does not."""

State = Literal["starting", "running", "finished", "stopped", "dead"]
"""How a sweep stands.

- `starting`: a driver prepares data, weights and cells, and no trial has begun.
- `running`: a driver works on it.
- `finished`: nothing is left to run.
- `stopped`: trials are left, and the last driver ended in order.
- `dead`: trials are left, and the last driver is gone without a word.
"""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Trials that are done, and how many there will be; None where a budget of time decides."""

    done: int
    planned: int | None


@dataclass(frozen=True, kw_only=True)
class PairStatus:
    """How one cell and attacker stand.

    `best_tuning_psnr` is the highest mean PSNR (dB) of a suggestion on tuning victims so far, the mean over seeds where
    there are several; `mean_test_psnr` the mean PSNR (dB) over test victims so far.
    """

    cell: str
    attacker: str
    finished: bool
    tuning: Progress
    test: Progress
    failed: int
    best_tuning_psnr: float | None
    mean_test_psnr: float | None

    @property
    def name(self) -> str:
        """Cell and attacker."""
        return f"{self.cell} / {self.attacker}"


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Failed trials whose errors differ in numbers alone: the first error, how many, the first trial, the cells."""

    error: str
    count: int
    trial: str
    cells: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Driver:
    """The driver that the folder names: host, process, when it began, and for how many seconds it has been silent."""

    host: str
    process: int | None
    since: str | None
    silent_seconds: float


@dataclass(frozen=True, kw_only=True)
class Status:
    """How a sweep stands at one moment; `plain` is what `gradsweep status --json` prints."""

    format: int
    folder: str
    sweep: str | None
    state: State
    at: str
    driver: Driver | None
    trials: Progress
    failed: int
    rate_per_minute: float | None
    seconds_left: float | None
    cells: tuple[PairStatus, ...]
    failures: tuple[Failure, ...]
    resume: str | None

    @property
    def over(self) -> bool:
        """Whether nothing changes any more unless somebody starts a driver."""
        return self.state in ("finished", "stopped", "dead")

    def plain(self) -> dict[str, Any]:
        """As JSON data: numbers are numbers, null stands for what is not known, no number is infinite."""
        return asdict(self)


def read_status(folder: Path) -> Status:
    """How the sweep in a results folder stands; writes nothing.

    Raises `InputError` where the folder holds no sweep, or a file in it is damaged.
    """
    check_folder_there(folder)
    owner = owner_of(folder)
    try:
        return _read(folder, owner)
    except NoResults:
        if owner is None or not owner.alive:
            raise no_sweep(folder) from None
        return _status(folder, owner, "starting")
    except InputError:
        if owner is None or not owner.alive:
            raise
        # A driver that merges its files meanwhile is done with that in a moment.
        time.sleep(1.0)
        return _read(folder, owner)


def _read(folder: Path, owner: Owner | None) -> Status:
    results = Results(folder, ())
    rows = results.rows
    trials = rows.drop_duplicates("trial_id")
    failed = trials[trials["status"] == "failed"]
    found = pairs(results)
    cells = tuple(_pair(pair, results, failed) for pair in found)
    planned = _sum([cell.tuning.planned for cell in cells] + [cell.test.planned for cell in cells])
    # A winner that was overtaken keeps its rows: they are done, and beyond what is planned.
    done = sum(cell.tuning.done + cell.test.done for cell in cells)
    rate = _rate(trials, owner)
    state = _state(owner, finished=bool(found) and all(pair.finished for pair in found), begun=len(rows) > 0)
    left = None if planned is None else max(0, planned - done)
    return _status(
        folder,
        owner,
        state,
        sweep=results.name if len(rows) or results.config else None,
        trials=Progress(done=done, planned=planned) if cells else Progress(done=len(trials), planned=None),
        failed=len(failed),
        rate_per_minute=rate,
        seconds_left=60 * left / rate if rate and left is not None else None,
        cells=cells,
        failures=_failures(failed),
    )


def _status(folder: Path, owner: Owner | None, state: State, **known: Any) -> Status:
    nothing: dict[str, Any] = {
        "sweep": None,
        "trials": Progress(done=0, planned=None),
        "failed": 0,
        "rate_per_minute": None,
        "seconds_left": None,
        "cells": (),
        "failures": (),
    }
    return Status(
        format=FORMAT,
        folder=str(folder),
        state=state,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        driver=_driver(owner),
        resume=f"gradsweep retry {shlex.quote(str(folder))}" if state in ("stopped", "dead") else None,
        **(nothing | known),
    )


def _state(owner: Owner | None, *, finished: bool, begun: bool) -> State:
    if owner is not None and owner.alive:
        return "running" if begun else "starting"
    if finished:
        return "finished"
    return "stopped" if owner is None else "dead"


def _driver(owner: Owner | None) -> Driver | None:
    if owner is None:
        return None
    return Driver(
        host=owner.host,
        process=owner.process,
        since=owner.since.isoformat(timespec="seconds") if owner.since else None,
        silent_seconds=round(owner.silent, 1),
    )


def _pair(pair: Pair, results: Results, failed: pd.DataFrame) -> PairStatus:
    mine = (failed["cell"] == pair.cell) & (failed["attacker"] == pair.attacker)
    return PairStatus(
        cell=pair.cell,
        attacker=pair.attacker,
        finished=pair.finished,
        tuning=Progress(done=pair.tuning, planned=pair.tuning_planned),
        test=Progress(done=pair.tests, planned=pair.tests_planned),
        failed=int(mine.sum()),
        best_tuning_psnr=_best(pair, results),
        mean_test_psnr=_tested(results.tested(pair.cell, pair.attacker)),
    )


def _best(pair: Pair, results: Results) -> float | None:
    winners = results.winners
    values = [
        winners[name].value for name in results.study_names(pair.cell, pair.attacker) if name in winners
    ]
    return _finite(sum(values) / len(values)) if values else None


def _tested(tested: pd.DataFrame) -> float | None:
    ok = tested[tested["status"] == "ok"]
    if ok.empty:
        return None
    psnr = ok["psnr"].clip(upper=EXACT_DB)
    return _finite(float(psnr.groupby([ok["sweep_seed"], ok["victim"]]).mean().mean()))


def _failures(failed: pd.DataFrame) -> tuple[Failure, ...]:
    """By kind of error, the most frequent first."""
    errors = failed["error"].fillna("")
    groups = [rows for _, rows in failed.groupby(errors.map(alike), sort=True)]
    found = [
        Failure(
            error=str(rows["error"].fillna("").iloc[0]),
            count=len(rows),
            trial=str(rows["trial_id"].iloc[0]),
            cells=tuple(str(cell) for cell in rows["cell"].unique()),
        )
        for rows in groups
    ]
    return tuple(sorted(found, key=lambda failure: -failure.count))


def _rate(trials: pd.DataFrame, owner: Owner | None) -> float | None:
    """Trials a minute since this driver's first one began; None without a driver, and before `ENOUGH` of them."""
    if owner is None or not owner.alive or owner.since is None:
        return None
    fresh = trials[trials["started_at"] >= pd.Timestamp(owner.since)]
    if len(fresh) < ENOUGH:
        return None
    passed = (datetime.now(UTC) - fresh["started_at"].min()).total_seconds()
    return 60 * len(fresh) / passed if passed > 0 else None


def _sum(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
