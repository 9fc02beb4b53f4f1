"""One attacker against one cell: suggestions out, results in, then the test victims."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from orchestrator.cells import Cell
from orchestrator.config import AttackerConfig
from orchestrator.search import Study
from orchestrator.space import Params
from orchestrator.store import ResultStore, Row, StudyRow
from orchestrator.trial import EXACT_DB, Phase, TrialSpec


class CellStudy:
    """Turns suggestions into trials and trials' rows into the study's values; afterwards tests the winner."""

    def __init__(self, cell: Cell, attacker: AttackerConfig, study: Study | None) -> None:
        self.cell, self.attacker, self.study = cell, attacker, study
        self.name = f"{cell.config.name}/{attacker.name}"
        self._open: dict[int, dict[int, float | None]] = {}
        self._tested = False

    @property
    def jobs(self) -> int:
        """How many trials it takes in all."""
        counts = self.cell.settings.victims
        return counts.test + (self.study.budget * counts.tuning if self.study else 0)

    def advance(self, store: ResultStore) -> list[TrialSpec]:
        """The trials that can start now; each is handed out once."""
        ready: list[TrialSpec] = []
        while self.study is not None and (suggestion := self.study.next()) is not None:
            self._open[suggestion.number] = {}
            self._record(store, suggestion.number, "asked", None)
            ready.extend(self._tuning_trials(suggestion.number))
        if not self._tested and (self.study is None or self.study.done):
            self._tested = True
            ready.extend(self._test_trials())
        return ready

    def params(self, suggestion: int | None) -> Params:
        """The searched parameters of a suggestion; none without a study."""
        return self.study.params(suggestion) if self.study and suggestion is not None else {}

    def settle(self, store: ResultStore, spec: TrialSpec, rows: Sequence[Row]) -> None:
        """Take a trial's rows; tell the study once all of the suggestion's victims are there."""
        if spec.phase == "test" or self.study is None or spec.suggestion is None:
            return
        values = self._open[spec.suggestion]
        psnr = mean_of([row["psnr"] for row in rows])
        values[spec.victim] = None if psnr is None else min(psnr, EXACT_DB)
        if len(values) == self.cell.settings.victims.tuning:
            found = [value for value in values.values() if value is not None]
            value = statistics.fmean(found) if len(found) == len(values) else None
            self.study.record(spec.suggestion, value)
            self._record(store, spec.suggestion, "failed" if value is None else "ok", value)

    def _tuning_trials(self, number: int) -> list[TrialSpec]:
        phase: Phase = "grid" if self.cell.settings.study.sampler == "grid" else "tune"
        params = self.params(number)
        return [
            self.cell.trial(self.attacker, phase=phase, suggestion=number, params=params, victim=victim)
            for victim in range(self.cell.settings.victims.tuning)
        ]

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

    def _record(self, store: ResultStore, number: int, state: str, value: float | None) -> None:
        ids = tuple(spec.trial_id for spec in self._tuning_trials(number))
        store.add_suggestion(StudyRow(self.name, number, self.params(number), state, value, ids))


def mean_of(values: Sequence[float | None]) -> float | None:
    """The mean of the values that are there; None where none is."""
    found = [value for value in values if value is not None]
    return statistics.fmean(found) if found else None
