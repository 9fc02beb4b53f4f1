"""The driver: asks studies, keeps workers busy, records what comes back."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cache as once
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from attack_core.base.programs.ways import why_not
from fl_core.base.device import pick_device, prepare_process
from fl_core.base.errors import InputError, NotSummable
from fl_core.base.own_code import OwnCodeFailed
from fl_core.base.shape import ImageShape
from fl_core.data.dataset import ImageDataset
from orchestrator.capture.datasets import open_data, with_classes
from orchestrator.capture.places import check_data, resolve_kind
from orchestrator.capture.priors import Learned, Priors
from orchestrator.capture.store import CaptureStore
from orchestrator.capture.used_data import DataCheck
from orchestrator.config.parse import cell_settings
from orchestrator.config.space import Params
from orchestrator.config.sweep import AttackerConfig, DataConfig, SweepConfig
from orchestrator.driver.again import Again
from orchestrator.driver.cached_trials import cached, entries_for, keep
from orchestrator.driver.checks import check_sweep
from orchestrator.driver.consent import require_consent
from orchestrator.driver.streak import Streak
from orchestrator.execute.execute import (
    Done,
    Executor,
    SerialExecutor,
    Unreachable,
    check_address,
    make_executor,
)
from orchestrator.execute.lifelines import RayLost, await_return
from orchestrator.execute.simulation import simulate
from orchestrator.io.cache import Cache
from orchestrator.io.guard import refuse_links
from orchestrator.io.identity import content_hash
from orchestrator.io.provenance import provenance
from orchestrator.results.folder import check_folder, claim_folder, read_claim
from orchestrator.results.schema import trials_schema
from orchestrator.results.store import FinishedTrial, ResultStore, Row, picture_rows
from orchestrator.results.utility_files import utility_paths
from orchestrator.runtime.progress import Reporter
from orchestrator.runtime.stop import Stop, Stopped
from orchestrator.study.cell_study import CellStudy, mean_of
from orchestrator.study.company import Company, companies
from orchestrator.study.dashboard_copy import Mirror
from orchestrator.study.schedule import Schedule
from orchestrator.study.search import Study
from orchestrator.study.utility_runs import UtilityRuns
from orchestrator.study.warm_start import note_warm_starts, warm_starts
from orchestrator.trial.cell import Cell
from orchestrator.trial.memory import packings, ran_out
from orchestrator.trial.rows import Released, rows_of
from orchestrator.trial.run import TrialResult, trial_job, trials_job, unfinished
from orchestrator.trial.shared_captures import SharedCaptures, shared_parts
from orchestrator.trial.spec import TrialSpec

_SPARE = 8
"""How many trials at most wait for a free worker at the executor, so that none idles while the driver is busy."""

GRACE = 5.0
"""Seconds that trials on workers have to end in when the sweep is told to stop."""

LOSSES = 3
"""How often in a row Ray may be lost without a trial finished in between."""


@dataclass(frozen=True)
class Outcome:
    """How a sweep ended: trials with a row in all, how many of them this run did, how many failed.

    Trials that came from a cache are in `trials` and not in `fresh`.

    `stopped` says why it ended early, where too many trials failed for one reason.
    """

    trials: int
    fresh: int
    failed: int
    stopped: str | None = None


def resolve(config: SweepConfig) -> SweepConfig:
    """The config with what depends on this machine made definite: kind of data, device.

    Raises `InputError` for what the device lacks: a budget of GPU time, a precision, graphs.
    """
    device = pick_device(config.execution.device).type
    _check_device(config, device)
    return dataclasses.replace(
        config,
        data=resolve_kind(config.data),
        attackers=tuple(_with_definite_data(attacker) for attacker in config.attackers),
        execution=dataclasses.replace(config.execution, device=device),
    )


def _check_device(config: SweepConfig, device: str) -> None:
    """Raise `InputError` for what `device` lacks; that bfloat16 works on MPS nobody has seen."""
    precision, here = config.execution.precision, f"this sweep runs on {device}, and"
    if precision == "tf32" and device != "cuda":
        raise InputError(
            f"execution.precision = {precision!r}: {here} CUDA alone has that; leave it at 'float32'."
        )
    if precision == "bf16" and device == "mps":
        raise InputError(
            f"execution.precision = {precision!r}: {here} that is for the CPU and CUDA; leave it at 'float32'."
        )
    programs = config.execution.programs
    if why := why_not(programs, device):
        first = "install one, name another one in CXX, or " if programs == "compiled" else ""
        raise InputError(f"execution.programs = {programs!r}: {here} {why}; {first}leave it at 'operations'.")
    if config.study.gpu_seconds is not None and device == "cpu":
        raise InputError(
            f"study.gpu_seconds = {config.study.gpu_seconds}: this sweep runs on the cpu; give study.seconds instead."
        )


def _with_definite_data(attacker: AttackerConfig) -> AttackerConfig:
    """The attacker with the data of its prior made definite, where it has some of its own."""
    prior = attacker.prior
    if prior is None or prior.data is None:
        return attacker
    return dataclasses.replace(attacker, prior=dataclasses.replace(prior, data=resolve_kind(prior.data)))


def run_sweep(
    config: SweepConfig,
    out: Path,
    *,
    address: str,
    reporter: Reporter,
    cells: Sequence[str] = ("*",),
    stop: Stop | None = None,
    job: Callable[..., TrialResult] | None = None,
    again: Again | None = None,
    patience: int | None = None,
    cache: Cache | None = None,
) -> Outcome:
    """Run or resume the sweep in the folder `out`; `cells` are patterns of cell names, `job` see `Driver`.

    Finished trials that are to run `again` are taken out once everything is prepared. So many trials as `patience` has
    that fail in a row for one reason end the sweep; None: it goes on. What a `cache` has of weights, captures,
    accuracies and trials is taken from there, and what is computed is left there for others.

    A local Ray that dies is started again, a cluster that is lost is waited for, and the sweep resumes. Raises
    `InputError` for bad input, `Stopped` when `stop` was told to, `RayLost` where Ray does not come back or is lost
    `LOSSES` times without a trial in between. Finished trials are on disk whatever happens.
    """
    stop, again = stop or Stop(), again or Again()
    fresh = fruitless = 0
    while True:
        try:
            outcome = _run(
                config,
                out,
                address=address,
                reporter=reporter,
                cells=cells,
                stop=stop,
                job=job,
                again=again,
                patience=patience,
                cache=cache,
            )
            return dataclasses.replace(outcome, fresh=fresh + outcome.fresh)
        except RayLost as lost:
            fresh, fruitless = fresh + lost.fresh, 1 if lost.fresh else fruitless + 1
            if fruitless >= LOSSES:
                raise
            what = "it is started again" if lost.cluster is None else "waiting for the cluster"
            reporter.message(f"{lost}; {what}.")
            with stop.window():
                await_return(lost)
        except Unreachable as error:
            if not fruitless:
                raise
            raise RayLost(str(error).rstrip("."), cluster=address) from error


def _run(
    config: SweepConfig,
    out: Path,
    *,
    address: str,
    reporter: Reporter,
    cells: Sequence[str],
    stop: Stop,
    job: Callable[..., TrialResult] | None,
    again: Again,
    patience: int | None,
    cache: Cache | None,
) -> Outcome:
    """`run_sweep` with one Ray; raises `RayLost` with it."""
    chosen = [cell_settings(config, cell) for cell in config.matching_cells(cells)]
    address = check_address(address)
    check_data(config.data, chosen)
    config, *chosen = with_classes([config, *chosen])
    check_sweep(config.attackers, chosen)
    config, chosen = resolve(config), [resolve(own) for own in chosen]
    # Captures are computed here and rounding follows the threads: not this machine's cores, but the config's.
    prepare_process(config.execution.threads)
    spaces = [attacker.space.every() for attacker in config.attackers]
    refuse_links(out)
    with ResultStore(out, trials_schema(spaces)) as store, ExitStack() as started:

        @once
        def executor() -> Executor:
            execution = config.execution
            with stop.starting():
                made = make_executor(
                    address,
                    workers=execution.workers,
                    threads=execution.threads,
                    gpus=execution.gpus,
                    preload=(trial_job,),
                )
            started.callback(made.close)
            return made

        if address == "auto":
            executor()  # Nothing but connecting says whether there is a cluster: better now than after the captures.
        finished = not store.empty or bool(utility_paths(out))
        ours = check_folder(out, config, finished=finished)
        claim = read_claim(out) if ours else None
        start = warm_starts(config, out, before=claim.config if claim else None, say=reporter.message)
        datasets, check = _DataCache(reporter), DataCheck(out, config, claim, store.data, reporter.message)
        with stop.window():
            sets = [check.admit(own.cell.name, datasets.of(own)) for own in chosen]
        device = torch.device(config.execution.device)
        captures = CaptureStore(
            out / "captures",
            device=device,
            progress=reporter.message,
            simulator=partial(simulate, executor=executor, threads=config.execution.threads),
        )
        priors = Priors(out / "captures", opened=datasets.opened, progress=reporter.message)

        def learned(own: SweepConfig, dataset: ImageDataset) -> dict[str, Learned]:
            noted = partial(store.priors_of, own.cell.name, seed=own.seed)
            return priors.by_attacker(own, dataset, config.attackers, noted)

        with stop.window():
            prepared = [
                Cell.prepare(
                    (at_seed := dataclasses.replace(own, seed=seed)),
                    dataset,
                    captures,
                    weights=store.weights_of(own.cell.name, seed, first=config.seed),
                    first=config.seed,
                    entries=entries_for(cache, own, check),
                    priors=learned(at_seed, dataset),
                )
                for seed in config.replicates
                for own, dataset in zip(chosen, sets, strict=True)
            ]
        if not finished:
            with stop.window():
                _check_images(
                    prepared
                )  # Before the folder is claimed: a picture that is mended is not another one.
        if not ours:
            store.forget_suggestions()
        note_warm_starts(config, out, start)
        claim_folder(out, config, check.note(), ours=ours)
        again.forget(store)
        mirror = Mirror(config.study.storage, out, sweep=config.name, say=reporter.message)
        driver = Driver(
            prepared,
            config,
            store,
            reporter,
            stop=stop,
            mirror=mirror,
            start=start,
            job=job,
            patience=patience,
        )
        driver.plan()
        if driver.unfinished:
            with stop.window():
                require_consent(prepared, allow_slow=config.execution.allow_slow)
                _check_images(prepared)
            driver.run(executor())
        mirror.close()
        store.compact()
        outcome = driver.outcome()
        if not (config.execution.keep_captures or outcome.stopped):
            captures.drop()
        return outcome


def _check_images(cells: Sequence[Cell]) -> None:
    """Decode every image that a victim's capture has yet to be made of: a broken one is found now, not hours later."""
    wanted: dict[ImageDataset, set[int]] = {}
    for cell in cells:
        wanted.setdefault(cell.dataset, set()).update(cell.source.missing_images())
    for dataset, indices in wanted.items():
        for index in sorted(indices):
            dataset.image(index)


class _DataCache:
    """Opens each data set once."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._open: dict[str, ImageDataset] = {}

    def of(self, settings: SweepConfig) -> ImageDataset:
        """The data set of a cell with these settings."""
        return self.opened(settings.data, settings.model.shape)

    def opened(self, data: DataConfig, shape: ImageShape) -> ImageDataset:
        """The data set with pictures of `shape`."""
        key = content_hash({"data": data, "shape": shape})
        if key not in self._open:
            self._open[key] = open_data(data, shape, progress=self._reporter.message)
        return self._open[key]


class Driver:
    """Keeps studies moving: what is in the store already is taken from there, the rest goes to the executor.

    `job` is what a worker does for a trial by itself: `trial_job`, or what a measurement puts in its place.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        config: SweepConfig,
        store: ResultStore,
        reporter: Reporter,
        *,
        stop: Stop,
        mirror: Mirror,
        start: Mapping[str, Sequence[Params]],
        job: Callable[..., TrialResult] | None = None,
        patience: int | None = None,
    ) -> None:
        self._config, self._store, self._reporter, self._mirror = config, store, reporter, mirror
        self._stop, self._job = stop, job or trial_job
        self._start, self._streak = start, Streak(patience)
        self._studies = [self._study(cell, attacker) for cell in cells for attacker in config.attackers]
        self._cells = list(cells)
        self._utility = UtilityRuns(cells, store.folder, reporter, stop)
        self._waiting: Schedule[Company] = Schedule()
        self._running: dict[str, tuple[Company, list[Released]]] = {}
        self._attempts: Counter[str] = Counter()
        self._captures = SharedCaptures(
            stop,
            attacked=chain.from_iterable(study.test_captures for study in self._studies),
            keep=config.execution.keep_captures,
        )
        self._accuracies: dict[str, float | None] = {}
        self._best: dict[str, float] = {}
        self._resumed = self._fresh = self._cached = self._failed = self._other_jobs = 0
        self._gpu_share = 0.0
        self._provenance = provenance()

    def plan(self) -> None:
        """Take what the folder holds already; afterwards `unfinished` says whether work is left."""
        found = self._utility.load()
        for study in self._studies:
            self._mirror.begin(study, self._store.suggestions(study.name))
        self._advance()
        self._other_jobs = found + self._utility.left
        self._reporter.start(self._jobs(), self._resumed + found, self._best)
        self._take_cached()

    @property
    def unfinished(self) -> bool:
        """Whether anything is left to run."""
        return bool(self._waiting or self._utility.left)

    def run(self, executor: Executor) -> None:
        """Work until every study has its test results.

        When told to stop, what runs on workers has `GRACE` seconds to end, what runs in this process none. So it has
        where too many trials have failed for one reason; `outcome` then says so.
        """
        try:
            self._utility.train_large(executor)
            self._gpu_share = executor.gpu_share
            while self._waiting or self._running or self._utility.left:
                if self._streak.text:
                    self._await_running(executor)
                    return
                self._stop.check()
                self._fill(executor)
                self._utility.start(executor, partial(self._breakable, executor=executor))
                self._reporter.tick(executor.capacity)
                done = executor.next_done(1.0)
                if done is not None:
                    self._finish(done)
                    self._advance()
        except RayLost as lost:
            lost.fresh = self._fresh
            raise
        except Stopped:
            if not isinstance(executor, SerialExecutor):
                with suppress(RayLost):
                    self._await_running(executor)
            raise

    def outcome(self) -> Outcome:
        """Counts for the exit code."""
        return Outcome(
            trials=self._resumed + self._fresh + self._cached,
            fresh=self._fresh,
            failed=self._failed,
            stopped=self._streak.text,
        )

    def _await_running(self, executor: Executor) -> None:
        end = time.monotonic() + GRACE
        while executor.in_flight and (left := end - time.monotonic()) > 0:
            done = executor.next_done(left)
            # A worker that the same signal ended is no failed trial, and a chunk of clients alone is no result.
            known = done is not None and (done.key in self._running or self._utility.owns(done))
            if done is not None and known and done.error is None:
                self._finish(done)

    def _study(self, cell: Cell, attacker: AttackerConfig) -> CellStudy:
        study = None
        if attacker.searches:
            name = cell.study(attacker)
            study = Study(
                name,
                attacker.space,
                attacker.study(cell.settings.study),
                seed=cell.settings.seed,
                recorded=self._store.suggestions(name),
                start=self._start.get(name, ()),
            )
        return CellStudy(cell, attacker, study)

    def _advance(self) -> None:
        """Ask all studies for trials until only work that is not in the store is left waiting."""
        moved = True
        while moved:
            moved = False
            for study in self._studies:
                left = []
                for spec in study.advance(self._store):
                    rows = self._store.rows(spec.trial_id)
                    if rows is None:
                        left.append(spec)
                        continue
                    moved = True
                    self._resumed += 1
                    psnr = mean_of([row["psnr"] for row in rows])
                    if psnr is not None:
                        self._best[study.name] = max(psnr, self._best.get(study.name, psnr))
                    self._settle(study, spec, rows)
                for company in companies(study, left, self._config.execution.victims_together):
                    self._wait(company)
                self._mirror.update(study)

    def _wait(self, company: Company, *, urgent: bool = False) -> None:
        self._waiting.add(company.study.name, company, urgent=urgent or company.phase != "test")

    def _jobs(self) -> int:
        """How many jobs there are in all, as far as is known yet."""
        return sum(study.jobs for study in self._studies) + self._other_jobs

    def _fill(self, executor: Executor) -> None:
        # Spare jobs hide the time between results and the next submissions.
        most = executor.capacity + min(executor.capacity, _SPARE)
        while executor.in_flight < most and (company := self._waiting.take(self._may_start)):
            # Asked again since `_take_cached`: another driver may have left some of them there in the meantime.
            company, taken = self._without_cached(company)
            if taken:
                self._advance()
            if company.specs:
                self._submit(company, executor)

    def _submit(self, company: Company, executor: Executor) -> None:
        """Hand trials to the executor, each with its capture."""
        study, specs, inputs = company.study, [], []
        for spec in company.specs:
            try:
                inputs.append(self._captures.of(study.cell, spec, executor))
                specs.append(spec)
            except (NotSummable, OwnCodeFailed) as refused:
                # One victim's update that no sum can hold, or no own defense, ends its trials and not the others'.
                self._end(study, spec, refused, Released(client=None, bytes_up=0))
                self._advance()
        if not specs:
            return
        key = specs[0].trial_id
        self._running[key] = Company(study, tuple(specs)), [each.released for each in inputs]
        work: Callable[..., Any]
        if len(specs) == 1:
            work = partial(self._job, attempt=self._attempts[key])
            arguments: tuple[Any, ...] = (specs[0], *inputs[0].parts)
        else:
            work = trials_job
            places, parts = shared_parts(inputs)
            arguments = (specs, places, *parts)
        if isinstance(executor, SerialExecutor):
            work = partial(work, progress=self._reporter.iteration)
        executor.submit(key, self._breakable(work, executor), *arguments)

    def _take_cached(self) -> None:
        """Take what a cache has of the waiting trials: where that is all, no worker has to be started."""
        if not any(study.cell.entries.cache for study in self._studies):
            return
        others = []
        while (company := self._waiting.take(self._may_start)) is not None:
            self._stop.check()
            left, taken = self._without_cached(company)
            if taken:
                self._advance()
            if left.specs:
                others.append(left)
        for company in others:
            self._wait(company)

    def _without_cached(self, company: Company) -> tuple[Company, bool]:
        """Those that the cache does not have, and whether it had some, which are recorded."""
        left = tuple(spec for spec in company.specs if not self._from_cache(company.study, spec))
        return Company(company.study, left), len(left) < len(company.specs)

    def _from_cache(self, study: CellStudy, spec: TrialSpec) -> bool:
        """Take a trial from the cell's cache, where it has it."""
        found = cached(study.cell, spec)
        if found is None:
            return False
        self._record(
            study,
            spec,
            found.result,
            released=found.released,
            gpu_share=found.gpu_share,
            provenance=found.provenance,
            from_cache=True,
        )
        return True

    def _may_start(self, company: Company) -> bool:
        """Not test trials whose rows name an accuracy that is still being measured."""
        return company.phase != "test" or not self._utility.awaited_by(company.study.cell)

    def _breakable(self, job: Callable[..., Any], executor: Executor) -> Callable[..., Any]:
        """A job in this process may be broken off when the sweep is told to stop; a worker's goes on elsewhere."""
        return self._stop.breakable(job) if isinstance(executor, SerialExecutor) else job

    def _finish(self, done: Done) -> None:
        if self._utility.owns(done):
            self._utility.finish(done)
            return
        if done.error is not None:
            self._stop.check()  # The signal may have ended the worker too; its trial has not failed.
        company, released = self._running.pop(done.key)
        study, (spec, *others) = company.study, company.specs
        if done.error is not None and others:
            # Whose fault it was shows where each runs by itself.
            for each in company.specs:
                self._wait(Company(study, (each,)), urgent=True)
            return
        narrower = self._attempts[spec.trial_id] + 1 < len(packings(spec.attack))
        if isinstance(done.error, MemoryError) and narrower:
            self._attempts[spec.trial_id] += 1
            self._wait(company, urgent=True)
            return
        ended = [done.result if done.error is None else done.error]
        for each, result, sent in zip(company.specs, done.result if others else ended, released, strict=True):
            self._end(study, each, result, sent)

    def _end(
        self, study: CellStudy, spec: TrialSpec, ended: TrialResult | BaseException, released: Released
    ) -> None:
        """Record how a trial ended: with a result, or with what its job raised."""
        tries = packings(spec.attack)[: self._attempts[spec.trial_id] + 1]
        result = ended if isinstance(ended, TrialResult) else lost(spec, tries, ended)
        origin: dict[str, Any] = {"gpu_share": self._gpu_share, "provenance": self._provenance}
        self._record(study, spec, result, released=released, **origin)
        self._fresh += 1
        failed = result.status == "failed"
        self._streak.take((result.error or "") if failed else None, trial=spec.trial_id)
        keep(study.cell, spec, result, released=released, **origin)

    def _record(
        self,
        study: CellStudy,
        spec: TrialSpec,
        result: TrialResult,
        *,
        released: Released,
        gpu_share: float,
        provenance: Mapping[str, str | None],
        from_cache: bool = False,
    ) -> None:
        """Put a trial's rows and pictures into the store."""
        rows = rows_of(
            study.cell,
            spec,
            result,
            params=study.params(spec.suggestion),
            released=released,
            accuracy=self._utility.accuracy(study.cell) if spec.phase == "test" else None,
            weights_accuracy=self._weights_accuracy(study.cell),
            gpu_share=gpu_share,
            provenance=dict(provenance),
            cached=from_cache,
        )
        pictures = picture_rows(
            spec.trial_id, [(score.image_id, score.original, score.reconstruction) for score in result.scores]
        )
        self._store.add_trial(FinishedTrial(spec.trial_id, rows, pictures))
        self._cached += from_cache
        self._settle(study, spec, rows)
        self._reporter.expect(self._jobs())
        self._reporter.job_done(study.name, mean_of([row["psnr"] for row in rows]))

    def _settle(self, study: CellStudy, spec: TrialSpec, rows: Sequence[Row]) -> None:
        """Take a trial that is in the store, from this run or an earlier one."""
        self._failed += rows[0]["status"] == "failed"
        if spec.phase == "test":
            self._captures.tested(study.cell, spec)
        study.settle(self._store, spec, rows)

    def _weights_accuracy(self, cell: Cell) -> float | None:
        """Measured once for all cells that attack the same weights on the same images."""
        key = f"{cell.dataset.fingerprint}:{cell.settings.data.valid}:{cell.source.weights.hash}"
        if key not in self._accuracies:
            self._accuracies[key] = cell.weights_accuracy()
        return self._accuracies[key]


def lost(spec: TrialSpec, tries: Sequence[int], error: BaseException) -> TrialResult:
    """The result of a trial whose job raised, or whose process is gone, after these packings."""
    line = next(iter(str(error).splitlines()), "")
    what = ran_out(tries) if isinstance(error, MemoryError) else type(error).__name__
    return unfinished(spec, f"{what}: {line}", packing=tries[-1])
