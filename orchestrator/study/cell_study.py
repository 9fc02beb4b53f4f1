"""One attacker against one cell: suggestions out, results in, then the test victims."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from fl_core.base.decibels import EXACT_DB
from orchestrator.config.space import Params
from orchestrator.config.sweep import AttackerConfig
from orchestrator.results.store import ResultStore, Row, StudyRow
from orchestrator.study.halving import Screening
from orchestrator.study.search import Study, Suggestion
from orchestrator.study.suggestion_run import Evaluation, Outcome
from orchestrator.trial.cell import Cell
from orchestrator.trial.spec import Phase, TrialSpec


class CellStudy:
    """Turns suggestions into trials and trials' rows into the study's values; afterwards tests the winner."""

    def __init__(self, cell: Cell, attacker: AttackerConfig, study: Study | None) -> None:
        self.cell, self.attacker, self.study = cell, attacker, study
        self.name = cell.study(attacker)
        halving = cell.settings.study.halving
        self._screening = None if halving is None else Screening(cell.settings.victims.tuning, halving)
        self._screened: dict[int, float] = {}
        self._open: dict[int, Evaluation] = {}
        self._trials: dict[int, tuple[str, ...]] = {}
        self._left_out = 0
        self._tested = False

    @property
    def jobs(self) -> int:
        """How many trials it takes in all, as far as is known yet."""
        counts = self.cell.settings.victims
        return self._tuning_jobs + counts.test

    @property
    def _tuning_jobs(self) -> int:
        if self.study is None:
            return 0
        victims, suggestions = self.cell.settings.victims.tuning, self.study.expected
        if self._screening is not None:
            return suggestions * self._screening.victims + round(
                self._screening.expected(suggestions) * victims
            )
        return suggestions * victims - self._left_out

    @property
    def test_captures(self) -> list[str]:
        """The captures of the test victims, by key."""
        return [
            self.cell.source.key(victim) for victim in self.cell.victims[self.cell.settings.victims.tuning :]
        ]

    def advance(self, store: ResultStore) -> list[TrialSpec]:
        """The trials that can start now; each is handed out once."""
        ready: list[TrialSpec] = []
        while self.study is not None and (suggestion := self.study.next()) is not None:
            self._begin(store, suggestion)
        if self._screening is not None:
            ready.extend(self._trial("screen", *short) for short in self._screening.ready())
        for number, evaluation in self._open.items():
            ready.extend(self._trial(self._phase, number, victim) for victim in evaluation.ready())
        if not self._tested and (self.study is None or self.study.done):
            self._tested = True
            ready.extend(self._test_trials())
        return ready

    def params(self, suggestion: int | None) -> Params:
        """The searched parameters of a suggestion; none without a study."""
        return self.study.params(suggestion) if self.study and suggestion is not None else {}

    def trial_ids(self, suggestion: int) -> tuple[str, ...]:
        """The trials of a suggestion, as its row in the table names them."""
        return self._trials[suggestion]

    def settle(self, store: ResultStore, spec: TrialSpec, rows: Sequence[Row]) -> None:
        """Take a trial's rows; tell the study once the suggestion has ended."""
        if spec.phase == "test" or self.study is None or spec.suggestion is None:
            return
        psnr = mean_of([row["psnr"] for row in rows])
        value = None if psnr is None else min(psnr, EXACT_DB)
        cost = rows[0]["seconds" if self.cell.settings.study.gpu_seconds is None else "gpu_seconds"]
        if spec.phase == "screen":
            self._screen(store, spec.suggestion, spec.victim, value, cost)
            return
        number, evaluation = spec.suggestion, self._open[spec.suggestion]
        evaluation.take(spec.victim, value, cost, rows[0].get("work"))
        outcome = evaluation.outcome()
        if outcome is not None:
            del self._open[number]
            self._left_out += self.cell.settings.victims.tuning - len(outcome.values)
            self._end(store, number, outcome.costing(self._screened.pop(number, 0.0)))

    @property
    def _phase(self) -> Phase:
        return "grid" if self.cell.settings.study.sampler == "grid" else "tune"

    def _victims(self, phase: Phase) -> range:
        """The tuning victims that trials of a phase attack."""
        short = self._screening.victims if self._screening and phase == "screen" else None
        return range(self.cell.settings.victims.tuning if short is None else short)

    def _begin(self, store: ResultStore, suggestion: Suggestion) -> None:
        """Start on a suggestion: with short trials under halving, else with whole ones."""
        settings, number = self.cell.settings, suggestion.number
        if self._screening is not None:
            self._screening.begin(number)
            self._note_trials(number, ["screen"])
        else:
            self._open[number] = Evaluation(
                settings.victims.tuning, prune=settings.study.prune, reference=suggestion.reference
            )
            self._note_trials(number, [self._phase])
        self._record(store, number)

    def _screen(self, store: ResultStore, number: int, victim: int, value: float | None, cost: float) -> None:
        """Take a short trial; what goes on is opened, what does not has ended."""
        if self._screening is None:
            raise ValueError(f"{self.name}: a short trial without halving.")
        for screened in self._screening.take(number, victim, value, cost):
            if screened.goes_on:
                self._open[screened.number] = Evaluation(self.cell.settings.victims.tuning)
                self._screened[screened.number] = screened.outcome.cost
                self._note_trials(screened.number, ["screen", self._phase])
                self._record(store, screened.number)
            else:
                self._end(store, screened.number, screened.ended)

    def _end(self, store: ResultStore, number: int, outcome: Outcome) -> None:
        """Record how a suggestion ended, and tell the study."""
        if self.study is None:
            raise ValueError(f"{self.name} has no study.")
        if self._screening is None:
            self._trials[number] = self._trials[number][: len(outcome.values)]
        self._record(store, number, outcome)
        self.study.record(number, outcome)

    def _note_trials(self, number: int, phases: Iterable[Phase]) -> None:
        self._trials[number] = tuple(
            self._trial(phase, number, victim).trial_id for phase in phases for victim in self._victims(phase)
        )

    def _trial(self, phase: Phase, number: int, victim: int) -> TrialSpec:
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

    def _record(self, store: ResultStore, number: int, ended: Outcome | None = None) -> None:
        """Note a suggestion that is asked, or how it ended."""
        state, value = (ended.state, ended.value) if ended else ("asked", None)
        work = ended.work if ended and value is not None else None
        ids = self.trial_ids(number)
        store.add_suggestion(StudyRow(self.name, number, self.params(number), state, value, ids, work))


def mean_of(values: Sequence[float | None]) -> float | None:
    """The mean of the values that are there; None where none is."""
    found = [value for value in values if value is not None]
    return statistics.fmean(found) if found else None
