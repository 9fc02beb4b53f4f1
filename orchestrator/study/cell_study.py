"""One attacker against one cell: suggestions out, results in, then the test victims."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from attack_core.metrics.metrics import EXACT_DB
from orchestrator.config.space import Params
from orchestrator.config.sweep import AttackerConfig
from orchestrator.results.store import ResultStore, Row, StudyRow
from orchestrator.study.search import Study
from orchestrator.study.suggestion_run import Evaluation
from orchestrator.trial.cell import Cell
from orchestrator.trial.spec import Phase, TrialSpec


class CellStudy:
    """Turns suggestions into trials and trials' rows into the study's values; afterwards tests the winner."""

    def __init__(self, cell: Cell, attacker: AttackerConfig, study: Study | None) -> None:
        self.cell, self.attacker, self.study = cell, attacker, study
        self.name = cell.study(attacker)
        self._open: dict[int, Evaluation] = {}
        self._trial_ids: dict[int, tuple[str, ...]] = {}
        self._left_out = 0
        self._tested = False

    @property
    def jobs(self) -> int:
        """How many trials it takes in all, as far as is known yet."""
        counts = self.cell.settings.victims
        tuning = self.study.expected * counts.tuning - self._left_out if self.study else 0
        return tuning + counts.test

    @property
    def test_captures(self) -> list[str]:
        """The captures of the test victims, by key."""
        return [
            self.cell.source.key(victim) for victim in self.cell.victims[self.cell.settings.victims.tuning :]
        ]

    def advance(self, store: ResultStore) -> list[TrialSpec]:
        """The trials that can start now; each is handed out once."""
        ready: list[TrialSpec] = []
        settings = self.cell.settings
        while self.study is not None and (suggestion := self.study.next()) is not None:
            self._open[suggestion.number] = Evaluation(
                settings.victims.tuning, prune=settings.study.prune, reference=suggestion.reference
            )
            self._record(store, suggestion.number, "asked", None, settings.victims.tuning)
        for number, evaluation in self._open.items():
            ready.extend(self._tuning_trial(number, victim) for victim in evaluation.ready())
        if not self._tested and (self.study is None or self.study.done):
            self._tested = True
            ready.extend(self._test_trials())
        return ready

    def params(self, suggestion: int | None) -> Params:
        """The searched parameters of a suggestion; none without a study."""
        return self.study.params(suggestion) if self.study and suggestion is not None else {}

    def trial_ids(self, suggestion: int, victims: int) -> tuple[str, ...]:
        """The trials of a suggestion on its first so many victims."""
        if suggestion not in self._trial_ids:
            every = range(self.cell.settings.victims.tuning)
            self._trial_ids[suggestion] = tuple(
                self._tuning_trial(suggestion, victim).trial_id for victim in every
            )
        return self._trial_ids[suggestion][:victims]

    def settle(self, store: ResultStore, spec: TrialSpec, rows: Sequence[Row]) -> None:
        """Take a trial's rows; tell the study once the suggestion has ended."""
        if spec.phase == "test" or self.study is None or spec.suggestion is None:
            return
        number, evaluation = spec.suggestion, self._open[spec.suggestion]
        psnr = mean_of([row["psnr"] for row in rows])
        cost = "seconds" if self.cell.settings.study.gpu_seconds is None else "gpu_seconds"
        evaluation.take(spec.victim, None if psnr is None else min(psnr, EXACT_DB), rows[0][cost])
        outcome = evaluation.outcome()
        if outcome is not None:
            del self._open[number]
            self._left_out += self.cell.settings.victims.tuning - len(outcome.values)
            self._record(store, number, outcome.state, outcome.value, len(outcome.values))
            self.study.record(number, outcome)

    def _tuning_trial(self, number: int, victim: int) -> TrialSpec:
        phase: Phase = "grid" if self.cell.settings.study.sampler == "grid" else "tune"
        return self.cell.trial(
            self.attacker, phase=phase, suggestion=number, params=self.params(number), victim=victim
        )

    def _test_trials(self) -> list[TrialSpec]:
        winner = self.study.best() if self.study else None
        if self.study is not None and winner is None:
            return []  # Every suggestion failed: there is no attacker to test, and the rows say why.
        number = winner[0] if winner else None
        counts, params = self.cell.settings.victims, self.params(number)
        return [
            self.cell.trial(self.attacker, phase="test", suggestion=number, params=params, victim=victim)
            for victim in range(counts.tuning, counts.tuning + counts.test)
        ]

    def _record(self, store: ResultStore, number: int, state: str, value: float | None, victims: int) -> None:
        ids = self.trial_ids(number, victims)
        store.add_suggestion(StudyRow(self.name, number, self.params(number), state, value, ids))


def mean_of(values: Sequence[float | None]) -> float | None:
    """The mean of the values that are there; None where none is."""
    found = [value for value in values if value is not None]
    return statistics.fmean(found) if found else None
