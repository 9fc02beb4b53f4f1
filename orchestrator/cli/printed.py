"""What is printed when a sweep has ended: notes, tables, where the report is, and what helps where it stopped."""

from __future__ import annotations

import shlex
from pathlib import Path

from rich.console import Console

from orchestrator.analysis.comparison import by_cell
from orchestrator.analysis.rounds import by_round
from orchestrator.analysis.strength import critical_lines
from orchestrator.analysis.summary import summary_lines
from orchestrator.driver.sweep import Outcome
from orchestrator.report.notes import notes
from orchestrator.report.reader import Results
from orchestrator.report.remaining import progress
from orchestrator.report.report import write_report
from orchestrator.report.terminal import (
    comparison_table,
    critical_strengths_table,
    rounds_table,
    sum_costs_table,
    summary_table,
    summed_cells,
)

SOME_FAILED = 1
"""The exit code of a sweep with failed trials."""


def report_on(folder: Path, console: Console) -> None:
    """Print notes, tables and the place of the report, which it writes, of a results folder."""
    lines = summary_lines(folder)
    for note in notes(lines):
        console.print(note, soft_wrap=True)
    width = console.width
    critical = critical_lines(folder, lines)
    if critical:
        console.print("", critical_strengths_table(critical, width=width))
    series = by_round(lines)
    if series:
        console.print("", rounds_table(series, width=width))
    secured = summed_cells(lines)
    if secured:
        console.print("", sum_costs_table(secured, width=width))
    compared = by_cell(lines)
    if compared:
        console.print("", comparison_table(compared, width=width))
    results = Results(folder, lines)
    left = progress(results)
    console.print(f"\n{results.data}", soft_wrap=True)
    console.print(f"{folder}{f', unfinished: {left}' if left else ''}", soft_wrap=True)
    console.print(summary_table(lines, width=width))
    # Last: a disk that is full keeps nobody from reading the table.
    console.print(f"\nReport: {write_report(folder, lines, critical)}", soft_wrap=True)


def told(outcome: Outcome, folder: Path, console: Console) -> int:
    """Print the last line of a sweep, what helps where failures stopped it, and give the exit code."""
    console.print(f"{outcome.trials} trials, {outcome.fresh} of them run now, {outcome.failed} failed.")
    if outcome.stopped:
        again = f"gradsweep retry {shlex.quote(str(folder))}"
        console.print(
            f"{outcome.stopped}. The sweep stopped; mend that and run `{again}`, or go on with --keep-going.",
            soft_wrap=True,
        )
    return SOME_FAILED if outcome.failed else 0
