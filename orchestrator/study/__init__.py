"""Studies: suggestions out, results in, in a fixed order."""

from __future__ import annotations

from orchestrator.study.cell_study import CellStudy, mean_of
from orchestrator.study.dashboard_copy import Mirror
from orchestrator.study.schedule import Schedule
from orchestrator.study.search import Study
from orchestrator.study.utility_runs import UtilityRuns
from orchestrator.study.warm_start import note_warm_starts, warm_starts

__all__ = [
    "CellStudy",
    "mean_of",
    "Mirror",
    "note_warm_starts",
    "Schedule",
    "Study",
    "UtilityRuns",
    "warm_starts",
]
