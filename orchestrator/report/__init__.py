"""What people read: conclusions, tables, figures, the page."""

from __future__ import annotations

from orchestrator.report.notes import notes
from orchestrator.report.reader import Results
from orchestrator.report.remaining import progress
from orchestrator.report.report import write_report
from orchestrator.report.run_outputs import write_outputs
from orchestrator.report.terminal import (
    WIDTH,
    comparison_table,
    critical_strengths_table,
    figure_table,
    rounds_table,
    sum_costs_table,
    summary_table,
    summed_cells,
)

__all__ = [
    "comparison_table",
    "critical_strengths_table",
    "figure_table",
    "notes",
    "progress",
    "Results",
    "rounds_table",
    "sum_costs_table",
    "summary_table",
    "summed_cells",
    "WIDTH",
    "write_outputs",
    "write_report",
]
