"""From rows to statistics: summaries, comparisons, critical strengths."""

from __future__ import annotations

from orchestrator.analysis.comparison import Compared, attackers, by_cell, is_hidden
from orchestrator.analysis.intervals import FEWEST, share_interval
from orchestrator.analysis.rounds import by_round
from orchestrator.analysis.strength import SUCCESS, critical_table, next_cells, write_critical
from orchestrator.analysis.summary import (
    SUCCESS_DB,
    by_victim,
    differs_in_threat_alone,
    read_studies,
    records,
    summarize,
    test_rows,
    winners,
    write_summary,
)

__all__ = [
    "attackers",
    "by_cell",
    "by_round",
    "by_victim",
    "Compared",
    "critical_table",
    "differs_in_threat_alone",
    "FEWEST",
    "is_hidden",
    "next_cells",
    "read_studies",
    "records",
    "share_interval",
    "SUCCESS",
    "SUCCESS_DB",
    "summarize",
    "test_rows",
    "winners",
    "write_critical",
    "write_summary",
]
