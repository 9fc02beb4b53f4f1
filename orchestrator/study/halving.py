"""Successive halving: each suggestion first on some victims with some iterations, and the better ones whole.

Two rungs of asynchronous successive halving (Li et al., MLSys 2020), made independent of who finishes when: a
suggestion is compared with all suggestions before it, whenever their results come.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.config.sweep import HalvingConfig
from orchestrator.study.suggestion_run import Evaluation, Outcome, State


@dataclass(frozen=True)
class Screened:
    """A suggestion whose short trials have ended, and whether it goes on to whole ones."""

    number: int
    outcome: Outcome
    goes_on: bool

    @property
    def ended(self) -> Outcome:
        """How the suggestion ended, where it does not go on."""
        state: State = "failed" if self.outcome.state == "failed" else "pruned"
        return Outcome(state, self.outcome.values, self.outcome.cost)


class Screening:
    """The short trials of one study's suggestions, and which of them go on."""

    def __init__(self, victims: int, config: HalvingConfig) -> None:
        """`victims` is how many tuning victims there are."""
        self.victims, self._config = config.screened(victims), config
        self._open: dict[int, Evaluation] = {}
        self._ended: dict[int, Outcome] = {}
        self._means: list[float] = []
        self._decided = self._kept = 0

    def begin(self, number: int) -> None:
        """Screen a suggestion; they begin in the order of their numbers, from 0."""
        self._open[number] = Evaluation(self.victims)

    def ready(self) -> Iterator[tuple[int, int]]:
        """Suggestion and victim of each short trial that can start now; each is handed out once."""
        for number, evaluation in self._open.items():
            for victim in evaluation.ready():
                yield number, victim

    def take(self, number: int, victim: int, value: float | None, cost: float) -> list[Screened]:
        """Note the result of a short trial; the suggestions, in order, of which it now decides whether they go on."""
        evaluation = self._open[number]
        evaluation.take(victim, value, cost)
        outcome = evaluation.outcome()
        if outcome is not None:
            self._ended[number] = outcome
            del self._open[number]
        found = []
        while (first := self._ended.pop(self._decided, None)) is not None:
            found.append(Screened(self._decided, first, self._goes_on(first)))
            self._kept += found[-1].goes_on
            self._decided += 1
        return found

    def expected(self, suggestions: int) -> float:
        """How many of so many suggestions go on, as far as is known yet."""
        return self._kept + self._config.keep * max(0, suggestions - self._decided)

    def _goes_on(self, outcome: Outcome) -> bool:
        """Whether it is among the best `keep` of all up to it, and the best of them where that is less than one."""
        if outcome.state == "failed":
            return False
        mine = statistics.fmean(outcome.found)
        better = sum(other >= mine for other in self._means)
        self._means.append(mine)
        # A failed one counts as worse than all: the share is of all suggestions.
        return better < max(1, int(self._config.keep * (self._decided + 1)))
