"""A trial that is run again as its folder notes it, and compared with its rows."""

from __future__ import annotations

import dataclasses
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from attack_core.base.types import Progress
from fl_core.base.device import cpu_threads
from fl_core.base.errors import InputError
from orchestrator.capture.datasets import open_data, with_classes
from orchestrator.capture.places import check_data
from orchestrator.capture.priors import Priors
from orchestrator.capture.store import CaptureStore
from orchestrator.capture.used_data import DataCheck
from orchestrator.config.parse import cell_settings
from orchestrator.config.sweep import SweepConfig
from orchestrator.driver.merge import OF_THE_RUN
from orchestrator.driver.sweep import lost, resolve
from orchestrator.execute.execute import SerialExecutor
from orchestrator.io.provenance import provenance
from orchestrator.living.find import find_trial, params_of
from orchestrator.results.folder import noted_sweep, read_claim
from orchestrator.results.schema import SUM_COSTS
from orchestrator.results.store import Row, data_by_cell, read_rows
from orchestrator.runtime.stop import Stop
from orchestrator.trial.cell import Cell
from orchestrator.trial.memory import packings
from orchestrator.trial.rows import rows_of
from orchestrator.trial.run import TrialResult, trial_job
from orchestrator.trial.shared_captures import SharedCaptures
from orchestrator.trial.spec import TrialSpec

_FREE = frozenset({*OF_THE_RUN, *SUM_COSTS, "accuracy", "weights_accuracy", "packing"})
"""Columns that are not compared: cost, place and time of a run, and what is not of this trial alone."""

_TELLING = ("host", "device", "versions", "git_commit")
"""What may explain other figures."""


@dataclass(frozen=True)
class Difference:
    """A figure of one image that came out otherwise."""

    image: str
    column: str
    before: Any
    now: Any


@dataclass(frozen=True)
class Replayed:
    """A trial's rows, those of its repetition, and in what they differ.

    `explained` names what was not the same for the two runs: `host`, `versions` and so on.
    """

    before: tuple[Row, ...]
    now: tuple[Row, ...]
    differences: tuple[Difference, ...]
    explained: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether all figures are the same to the last digit."""
        return not self.differences


def replay_trial(
    folder: Path,
    name: str,
    *,
    data_root: str | None = None,
    say: Callable[[str], None] = lambda _: None,
    progress: Progress | None = None,
) -> Replayed:
    """Run a trial again in this process and compare; writes nothing into the folder.

    Weights and the capture are those of the folder where it has them, else they are made again. Raises `InputError` for
    a trial that there is not, other pictures than the folder's, and settings that give another trial now.
    """
    before = find_trial(folder, name)
    config = noted_sweep(folder, data_root)
    with cpu_threads(config.execution.threads), tempfile.TemporaryDirectory() as scratch:
        captures = Path(scratch)
        for name in ("weights", "priors"):
            made = folder / "captures" / name
            if made.is_dir():
                shutil.copytree(made, captures / name)
        now = _again(folder, config, before[0], captures, say, progress)
    return Replayed(
        before=tuple(before),
        now=now,
        differences=tuple(_differences(before, now)),
        explained=tuple(name for name in _TELLING if before[0][name] != now[0][name]),
    )


def _again(
    folder: Path,
    config: SweepConfig,
    row: Row,
    captures: Path,
    say: Callable[[str], None],
    progress: Progress | None,
) -> tuple[Row, ...]:
    cell = _cell(folder, config, row, captures, say)
    attacker = next((each for each in config.attackers if each.name == row["attacker"]), None)
    if attacker is None:
        raise InputError(
            f"{folder} notes no attacker {row['attacker']!r} any more; the trial cannot be run again."
        )
    params = params_of(folder, row)
    spec = cell.trial(
        attacker, phase=row["phase"], suggestion=row["suggestion"], params=params, victim=row["victim"]
    )
    if spec.trial_id != row["trial_id"]:
        raise InputError(
            f"The settings in {folder} give trial {spec.trial_id} in the place of {row['trial_id']}: they have changed "
            "since, or another version wrote them."
        )
    stored = folder / "captures" / spec.capture
    if stored.is_dir():
        shutil.copytree(stored, captures / spec.capture)
    shared = SharedCaptures(Stop(), attacked=(), keep=True).of(cell, spec, SerialExecutor())
    return rows_of(
        cell,
        spec,
        _run(spec, shared.parts, row["packing"], progress),
        params=params,
        released=shared.released,
        accuracy=row["accuracy"],
        weights_accuracy=row["weights_accuracy"],
        gpu_share=1.0,
        provenance=provenance(),
    )


def _cell(folder: Path, config: SweepConfig, row: Row, captures: Path, say: Callable[[str], None]) -> Cell:
    """The trial's cell at its seed, on the folder's pictures."""
    noted = next((cell for cell in config.cells if cell.name == row["cell"]), None)
    if noted is None:
        raise InputError(f"{folder} notes no cell {row['cell']!r} any more; the trial cannot be run again.")
    own = cell_settings(config, noted)
    check_data(config.data, [own])
    whole, own = (resolve(each) for each in with_classes([config, own]))
    named = data_by_cell(read_rows(folder).select(["cell", "data"]).to_pylist())
    check = DataCheck(folder, whole, read_claim(folder), named, say)
    dataset = check.admit(noted.name, open_data(own.data, own.model.shape, progress=say))
    seed = config.seed if row["sweep_seed"] is None else row["sweep_seed"]
    store = CaptureStore(captures, device=torch.device(own.execution.device), progress=say)
    at_seed = dataclasses.replace(own, seed=seed)
    priors = Priors(captures, opened=partial(open_data, progress=say), progress=say)
    mine = [each for each in whole.attackers if each.name == row["attacker"]]
    attacked = [row["prior"]] if row.get("prior") else []
    return Cell.prepare(
        at_seed,
        dataset,
        store,
        weights=str(row["weights"]).rpartition(":")[2],
        first=config.seed,
        priors=priors.by_attacker(at_seed, dataset, mine, lambda _: attacked),
    )


def _run(
    spec: TrialSpec, parts: Sequence[Any], packing: int | None, progress: Progress | None
) -> TrialResult:
    """As a worker of a sweep would run it; with as many restarts together as the trial came to."""
    tries = packings(spec.attack)
    attempt = tries.index(packing) if packing in tries else 0
    work = partial(trial_job, attempt=attempt, progress=progress)
    try:
        return work(spec, *parts)
    except Exception as error:
        return lost(spec, tries, error)


def _differences(before: Sequence[Row], now: Sequence[Row]) -> Iterator[Difference]:
    old, new = ({row["image_id"]: row for row in rows} for rows in (before, now))
    if old.keys() != new.keys():
        yield Difference("all", "image_id", sorted(map(str, old)), sorted(map(str, new)))
    for image in old.keys() & new.keys():
        for column, value in new[image].items():
            if column in _FREE or column not in old[image]:
                continue
            was = old[image][column]
            # A column that was added since is null in an old row.
            added = was is None and old[image]["status"] == new[image]["status"]
            if not (added or _equal(was, value)):
                yield Difference(str(image), column, was, value)


def _equal(one: object, other: object) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return one == other or (math.isnan(one) and math.isnan(other))
    return one == other
