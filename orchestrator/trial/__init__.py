"""One trial, the cell that it belongs to, and accuracy runs."""

from __future__ import annotations

from orchestrator.trial.cells import Cell, Released, check_cell, rows_of
from orchestrator.trial.shared_captures import SharedCaptures
from orchestrator.trial.trial import (
    Phase,
    TrialResult,
    TrialSpec,
    out_of_memory,
    packings,
    ran_out,
    trial_job,
    unfinished,
)
from orchestrator.trial.utility import UtilitySpec, run_utility

__all__ = [
    "Cell",
    "check_cell",
    "out_of_memory",
    "packings",
    "Phase",
    "ran_out",
    "Released",
    "rows_of",
    "run_utility",
    "SharedCaptures",
    "trial_job",
    "TrialResult",
    "TrialSpec",
    "unfinished",
    "UtilitySpec",
]
