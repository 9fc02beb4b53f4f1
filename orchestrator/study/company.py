"""Trials of one study that run as one job: victims of one suggestion."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from orchestrator.study.cell_study import CellStudy
from orchestrator.trial.spec import Phase, TrialSpec


@dataclass(frozen=True)
class Company:
    """Trials that are handed to a worker together: of one study, one phase and one suggestion."""

    study: CellStudy
    specs: tuple[TrialSpec, ...]

    @property
    def phase(self) -> Phase:
        """The phase of all of them."""
        return self.specs[0].phase


def companies(study: CellStudy, specs: Sequence[TrialSpec], most: int) -> Iterator[Company]:
    """The trials that can start now, in order, in companies of at most so many victims.

    Which go together follows from the study alone, and not from which worker is free.
    """
    for _, alike in groupby(specs, key=lambda spec: (spec.phase, spec.suggestion)):
        own = tuple(alike)
        for first in range(0, len(own), most):
            yield Company(study, own[first : first + most])
