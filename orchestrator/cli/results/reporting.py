"""What `gradsweep report` and `merge` do; neither Ray nor torch is loaded for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from orchestrator.analysis.comparison import by_cell
from orchestrator.analysis.rounds import by_round
from orchestrator.analysis.strength import critical_lines
from orchestrator.analysis.summary import summary_lines
from orchestrator.driver.merge import merge_folders
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


def merge(folders: Sequence[Path], out: Path, console: Console) -> None:
    """Unite results folders of one sweep in `out` and report on it; raises `InputError` where they differ."""
    merged = merge_folders(folders, out)
    report_on(out, console)
    console.print(f"{merged.trials} trials of {len(folders)} folders, {merged.failed} failed.")


def report_on(folder: Path, console: Console) -> None:
    """Print the summary of a results folder and write its report, figures and summary.parquet."""
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
