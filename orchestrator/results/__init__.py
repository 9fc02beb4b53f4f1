"""The results folder: columns, the one writer, its log and lease, merging."""

from __future__ import annotations

from orchestrator.results.folder import (
    CLAIM,
    Claim,
    check_folder,
    claim_folder,
    claimed,
    first_difference,
    read_claim,
)
from orchestrator.results.pictures import decode
from orchestrator.results.schema import SUM_COSTS, hp_column, trials_schema, trials_table
from orchestrator.results.store import (
    FinishedTrial,
    ResultStore,
    Row,
    StudyRow,
    data_by_cell,
    picture_rows,
    read_images,
    read_rows,
    read_studies,
    warn_of_strays,
)
from orchestrator.results.utility_files import (
    UTILITY,
    UtilityFile,
    UtilityResult,
    read_utility,
    utilities,
    utility_paths,
    write_utility,
)

__all__ = [
    "check_folder",
    "CLAIM",
    "Claim",
    "claim_folder",
    "claimed",
    "data_by_cell",
    "decode",
    "FinishedTrial",
    "first_difference",
    "hp_column",
    "picture_rows",
    "read_claim",
    "read_images",
    "read_rows",
    "read_studies",
    "read_utility",
    "ResultStore",
    "Row",
    "StudyRow",
    "SUM_COSTS",
    "trials_schema",
    "trials_table",
    "utilities",
    "UTILITY",
    "utility_paths",
    "UtilityFile",
    "UtilityResult",
    "warn_of_strays",
    "write_utility",
]
