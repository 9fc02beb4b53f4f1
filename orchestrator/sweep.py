"""The driver: asks studies, keeps workers busy, records what comes back."""

from __future__ import annotations

import dataclasses
import fnmatch
import json
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

from attack_core.types import Progress
from fl_core.celeba import FaceDataset
from fl_core.device import pick_device
from fl_core.errors import InputError
from fl_core.types import ModelState, RoundRecord, Truth
from orchestrator.capture import CaptureStore
from orchestrator.cell_study import CellStudy, mean_of
from orchestrator.cells import Cell, Released, rows_of
from orchestrator.config import AttackerConfig, SweepConfig
from orchestrator.datasets import open_faces, resolve_kind
from orchestrator.execute import Done, Executor, SerialExecutor, make_executor
from orchestrator.files import write_atomically
from orchestrator.folder import FORMAT, claim_folder
from orchestrator.identity import content_hash
from orchestrator.parse import build, cell_settings, to_plain
from orchestrator.progress import Reporter
from orchestrator.provenance import provenance
from orchestrator.schema import trials_schema
from orchestrator.search import Study
from orchestrator.store import FinishedTrial, ResultStore, picture_rows
from orchestrator.trial import TrialResult, TrialSpec, run_trial
from orchestrator.utility import UtilityResult, run_utility


@dataclass(frozen=True)
class Outcome:
    """How a sweep ended: trials with a row in all, how many of them this run did, how many failed."""

    trials: int
    fresh: int
    failed: int


def resolve(config: SweepConfig) -> SweepConfig:
    """The config with what depends on this machine made definite: kind of data, device."""
    device = pick_device(config.execution.device).type
    return dataclasses.replace(
        config,
        data=resolve_kind(config.data),
        execution=dataclasses.replace(config.execution, device=device),
    )


def run_sweep(
    config: SweepConfig, out: Path, *, address: str, reporter: Reporter, cells: str = "*"
) -> Outcome:
    """Run or resume the sweep in the folder `out`; `cells` is a pattern of cell names.

    Raises `InputError` for bad input. Finished trials are on disk whatever happens.
    """
    chosen = [cell for cell in config.cells if fnmatch.fnmatchcase(cell.name, cells)]
    if not chosen:
        raise InputError(
            f"--cells {cells!r} matches none of {', '.join(cell.name for cell in config.cells)}."
        )
    config = resolve(config)
    spaces = [attacker.search for attacker in config.attackers]
    with ResultStore(out, trials_schema(spaces)) as store:
        claim_folder(out, config)
        device = torch.device(config.execution.device)
        captures = CaptureStore(out / "captures", device=device, progress=reporter.message)
        faces = _FaceCache(reporter)
        prepared = [Cell.prepare(config, cell, faces.of(config, cell.name), captures) for cell in chosen]
        driver = Driver(prepared, config, store, reporter)
        driver.plan()
        if driver.unfinished:
            executor = make_executor(
                address, workers=config.execution.workers, threads=config.execution.threads
            )
            try:
                driver.run(executor)
            finally:
                executor.close()
        store.compact()
        if not config.execution.keep_captures:
            captures.drop()
        return driver.outcome()


class _FaceCache:
    """Opens each data set once."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._open: dict[str, FaceDataset] = {}

    def of(self, config: SweepConfig, name: str) -> FaceDataset:
        """The data set of the cell called `name`."""
        settings = cell_settings(config, next(cell for cell in config.cells if cell.name == name))
        key = content_hash({"data": settings.data, "size": settings.model.image_size})
        if key not in self._open:
            self._open[key] = open_faces(
                settings.data, image_size=settings.model.image_size, progress=self._reporter.message
            )
        return self._open[key]


class Driver:
    """Keeps studies moving: what is in the store already is taken from there, the rest goes to the executor."""

    def __init__(
        self, cells: Sequence[Cell], config: SweepConfig, store: ResultStore, reporter: Reporter
    ) -> None:
        self._config, self._store, self._reporter = config, store, reporter
        self._studies = [self._study(cell, attacker) for cell in cells for attacker in config.attackers]
        self._cells = list(cells)
        self._utility: dict[str, UtilityResult] = {}
        self._waiting: deque[tuple[CellStudy, TrialSpec]] = deque()
        self._running: dict[str, tuple[CellStudy, TrialSpec]] = {}
        self._utility_jobs: dict[str, Cell] = {}
        self._shared: dict[tuple[str, int], tuple[Any, Any, Any, Any, Released]] = {}
        self._states: dict[str, Any] = {}
        self._resumed = self._fresh = self._failed = 0
        self._provenance = provenance()

    def plan(self) -> None:
        """Take what the folder holds already; afterwards `unfinished` says whether work is left."""
        folder = self._store.folder / "utility"
        for cell in self._cells:
            spec = cell.utility()
            path = folder / f"{content_hash(spec)}.json"
            if spec is not None and path.is_file():
                self._utility[cell.config.name] = build(
                    UtilityResult, json.loads(path.read_bytes())["result"], where=str(path)
                )
            elif spec is not None:
                self._utility_jobs[cell.config.name] = cell
        self._advance()
        jobs = sum(study.jobs for study in self._studies) + len(self._utility) + len(self._utility_jobs)
        self._reporter.start(jobs, self._resumed + len(self._utility))

    @property
    def unfinished(self) -> bool:
        """Whether anything is left to run."""
        return bool(self._waiting or self._utility_jobs)

    def run(self, executor: Executor) -> None:
        """Work until every study has its test results."""
        # A few trials go first, so that something is seen of the sweep while the federations train.
        self._fill(executor)
        for cell in self._utility_jobs.values():
            executor.submit(f"utility:{cell.config.name}", run_utility, cell.utility(), cell.dataset)
        while self._waiting or self._running or self._utility_jobs:
            self._fill(executor)
            done = executor.next_done(1.0)
            self._reporter.tick()
            if done is not None:
                self._finish(done)
                self._advance()

    def outcome(self) -> Outcome:
        """Counts for the exit code."""
        return Outcome(trials=self._resumed + self._fresh, fresh=self._fresh, failed=self._failed)

    def _study(self, cell: Cell, attacker: AttackerConfig) -> CellStudy:
        study = None
        if attacker.search:
            name = f"{cell.config.name}/{attacker.name}"
            study = Study(
                name,
                attacker.search,
                cell.settings.study,
                seed=self._config.seed,
                recorded=self._store.suggestions(name),
            )
        return CellStudy(cell, attacker, study)

    def _advance(self) -> None:
        """Ask all studies for trials until only work that is not in the store is left waiting."""
        moved = True
        while moved:
            moved = False
            for study in self._studies:
                for spec in study.advance(self._store):
                    rows = self._store.rows(spec.trial_id)
                    if rows is None:
                        self._waiting.append((study, spec))
                        continue
                    moved = True
                    self._resumed += 1
                    self._failed += rows[0]["status"] == "failed"
                    study.settle(self._store, spec, rows)

    def _fill(self, executor: Executor) -> None:
        held: list[tuple[CellStudy, TrialSpec]] = []
        # One spare job a worker hides the time between a result and the next submission.
        while self._waiting and executor.in_flight < 2 * executor.capacity:
            study, spec = self._waiting.popleft()
            if spec.phase == "test" and study.cell.config.name in self._utility_jobs:
                held.append((study, spec))  # Its rows name the accuracy, which is still being measured.
                continue
            state, record, truth, mean, _ = self._handles(study.cell, spec, executor)
            self._running[spec.trial_id] = (study, spec)
            job = _trial_job
            if isinstance(executor, SerialExecutor):
                job = partial(_trial_job, progress=self._reporter.iteration)
            executor.submit(spec.trial_id, job, spec, state, record, truth, mean)
        self._waiting.extendleft(reversed(held))

    def _handles(
        self, cell: Cell, spec: TrialSpec, executor: Executor
    ) -> tuple[Any, Any, Any, Any, Released]:
        """Handles on weights, record, truth and mean image; the large weights are shared once for all captures."""
        key = (spec.capture, spec.victim)
        if key not in self._shared:
            victim = cell.victims[spec.victim]
            capture = cell.source.get(victim)
            weights = cell.source.weights
            if weights.hash not in self._states:
                self._states[weights.hash] = executor.share(weights.state)
            light = dataclasses.replace(capture.record, state=ModelState(parameters={}))
            self._shared[key] = (
                self._states[weights.hash],
                executor.share(light),
                executor.share(capture.truth),
                cell.public_mean,
                Released.of(capture, victim),
            )
        return self._shared[key]

    def _finish(self, done: Done) -> None:
        if done.key.startswith("utility:"):
            self._finish_utility(done)
            return
        study, spec = self._running.pop(done.key)
        key = (spec.capture, spec.victim)
        released = self._shared[key][-1]
        if spec.phase == "test":
            del self._shared[key]
        result: TrialResult = done.result if done.error is None else _crashed(spec, done.error)
        rows = rows_of(
            study.cell,
            spec,
            result,
            params=study.params(spec.suggestion),
            released=released,
            utility=self._utility.get(study.cell.config.name) if spec.phase == "test" else None,
            provenance=self._provenance,
        )
        pictures = picture_rows(
            spec.trial_id, [(score.image_id, score.original, score.reconstruction) for score in result.scores]
        )
        self._store.add_trial(FinishedTrial(spec.trial_id, rows, pictures))
        self._fresh += 1
        self._failed += result.status == "failed"
        study.settle(self._store, spec, rows)
        self._reporter.job_done(study.name, mean_of([row["psnr"] for row in rows]))

    def _finish_utility(self, done: Done) -> None:
        cell = self._utility_jobs.pop(done.key.removeprefix("utility:"))
        if done.error is not None:
            raise done.error
        result: UtilityResult = done.result
        spec = cell.utility()
        folder = self._store.folder / "utility"
        folder.mkdir(exist_ok=True)
        content = {
            "format": FORMAT,
            "cell": cell.config.name,
            "spec": to_plain(spec),
            "result": to_plain(result),
        }
        write_atomically(folder / f"{content_hash(spec)}.json", json.dumps(content, indent=1).encode())
        self._utility[cell.config.name] = result
        self._reporter.job_done(f"{cell.config.name}/accuracy", None)


def _trial_job(
    spec: TrialSpec,
    state: ModelState,
    record: RoundRecord,
    truth: Truth,
    mean_image: torch.Tensor,
    progress: Progress | None = None,
) -> TrialResult:
    """What a worker does: put the shared weights back into the record, and run."""
    return run_trial(spec, dataclasses.replace(record, state=state), truth, mean_image, progress=progress)


def _crashed(spec: TrialSpec, error: BaseException) -> TrialResult:
    lines = str(error).splitlines() or [""]
    return TrialResult(
        trial_id=spec.trial_id,
        status="failed",
        error=f"{type(error).__name__}: {lines[0]}",
        scores=(),
        match_loss=None,
        iterations=None,
        candidates_failed=None,
        seconds=0.0,
        cpu_seconds=0.0,
        device=spec.device,
        peak_memory_mb=0.0,
        host="",
        started_at=datetime.now(UTC),
    )
