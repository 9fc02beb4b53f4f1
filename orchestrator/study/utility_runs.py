"""The runs that measure accuracy: which cells share one, which are done, which are still to be trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from fl_core.base.own_code import OwnCodeFailed
from fl_core.federation.rounds import FederationConfig
from orchestrator.config.plain import to_plain
from orchestrator.execute.execute import Done, Executor
from orchestrator.execute.simulation import PooledSimulator
from orchestrator.io.files import clearly, sealed_text, typed, unsealed
from orchestrator.io.identity import content_hash
from orchestrator.results.utility_files import UTILITY, UtilityResult, read_utility, write_utility
from orchestrator.runtime.progress import Reporter
from orchestrator.runtime.stop import Stop
from orchestrator.study.cell_study import mean_of
from orchestrator.trial.cell import Cell
from orchestrator.trial.utility import UtilitySpec, run_utility

_PREFIX = "utility:"
_FILE = "accuracy.json"

Wrap = Callable[[Callable[..., Any]], Callable[..., Any]]
"""What is done to a job before it is handed to the executor."""


class UtilityRuns:
    """Each run once for all cells that share it, kept under its content address in the folder `utility`."""

    def __init__(self, cells: Iterable[Cell], folder: Path, reporter: Reporter, stop: Stop) -> None:
        self._folder, self._reporter, self._stop = folder / UTILITY, reporter, stop
        self._left: dict[str, list[Cell]] = {}
        self._specs: dict[str, UtilitySpec] = {}
        self._running: set[str] = set()
        self._results: dict[str, UtilityResult] = {}
        self._of: dict[tuple[str, int], list[str]] = {}
        for cell in cells:
            for spec in cell.utility():
                key = content_hash(spec)
                self._specs[key] = spec
                self._left.setdefault(key, []).append(cell)
                self._of.setdefault(_at(cell), []).append(key)

    def load(self) -> int:
        """Take what the folder holds already, or a cache; how many runs that were."""
        found = {key: self._path(key) for key in self._left if self._path(key).is_file()}
        for key, path in found.items():
            self._keep(key, self._left.pop(key), read_utility(path).result)
        taken = {key: self._cached(key, cells[0]) for key, cells in self._left.items()}
        shared = {key: result for key, result in taken.items() if result is not None}
        for key, result in shared.items():
            self._keep(key, self._left.pop(key), result)
        return len(found) + len(shared)

    @property
    def left(self) -> int:
        """How many runs are not done."""
        return len(self._left)

    def awaited_by(self, cell: Cell) -> bool:
        """Whether the cell's accuracy is still being measured."""
        return any(cell in cells for cells in self._left.values())

    def accuracy(self, cell: Cell) -> float | None:
        """The cell's accuracy, the mean over its runs, where they are done."""
        found = [self._results.get(key) for key in self._of.get(_at(cell), ())]
        return mean_of([None if one is None else one.accuracy for one in found])

    def owns(self, done: Done) -> bool:
        """Whether a finished job is one of these runs."""
        return done.key.startswith(_PREFIX)

    def train_large(self, executor: Executor) -> None:
        """Runs whose rounds are worth spreading have all workers, one run after another."""
        for key, cells in list(self._left.items()):
            spec, name = self._specs[key], cells[0].config.name
            if spec.federation.chunks_per_round == 1:
                continue
            done = Done(f"{_PREFIX}{key}")
            try:
                with self._stop.window():
                    result = run_utility(
                        spec,
                        cells[0].dataset,
                        simulator=partial(PooledSimulator, executor, threads=spec.threads),
                        progress=partial(self._round_done, name, spec.federation),
                    )
                done = replace(done, result=result)
            except OwnCodeFailed as error:
                done = replace(done, error=error)
            self._running.add(key)
            self.finish(done)

    def start(self, executor: Executor, wrapped: Wrap) -> None:
        """Keep at most half of the workers on these long runs, so that trials are seen to move."""
        for key, cells in self._left.items():
            if len(self._running) >= max(1, executor.capacity // 2):
                return
            if key not in self._running:
                self._running.add(key)
                job = wrapped(run_utility)
                executor.submit(f"{_PREFIX}{key}", job, self._specs[key], cells[0].dataset)

    def finish(self, done: Done) -> None:
        """Keep what a run found; raises the error that it ended with.

        Where an own defense fails, its cells have no accuracy and their trials go on.
        """
        key = done.key.removeprefix(_PREFIX)
        cells = self._left.pop(key)
        self._running.remove(key)
        if isinstance(done.error, OwnCodeFailed):
            self._reporter.message(f"{cells[0].config.name}: no accuracy was measured: {done.error}")
            self._reporter.job_done(f"{cells[0].config.name}/accuracy", None)
            return
        if done.error is not None:
            raise done.error
        self._keep(key, cells, done.result)
        cells[0].entries.write("accuracies", self._specs[key], partial(_file_of, done.result))
        self._reporter.job_done(f"{cells[0].config.name}/accuracy", None)

    def _round_done(self, cell: str, federation: FederationConfig, number: int, accuracy: float) -> None:
        self._reporter.message(
            f"{cell}: {federation.per_round} of {federation.clients} clients trained in round {number + 1} of "
            f"{federation.rounds}, accuracy {accuracy:.0%}"
        )

    def _cached(self, key: str, cell: Cell) -> UtilityResult | None:
        """What a cache has of a run, where it has it."""

        def parse(files: Mapping[str, bytes]) -> UtilityResult:
            return typed(UtilityResult, unsealed(files[_FILE])["result"])

        return cell.entries.read("accuracies", self._specs[key], parse)

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.json"

    def _keep(self, key: str, cells: list[Cell], result: UtilityResult) -> None:
        path, names = self._path(key), [cell.config.name for cell in cells]
        with clearly("write", path.parent):
            path.parent.mkdir(exist_ok=True)
        if path.is_file():
            names = sorted({*names, *read_utility(path).cells})
        write_utility(path, cells=names, spec=to_plain(self._specs[key]), result=to_plain(result))
        self._results[key] = result


def _file_of(result: UtilityResult) -> dict[str, bytes]:
    """The files of a run in a cache."""
    return {_FILE: sealed_text({"result": to_plain(result)})}


def _at(cell: Cell) -> tuple[str, int]:
    """Which of the cells of a sweep with several seeds it is."""
    return cell.config.name, cell.settings.seed
