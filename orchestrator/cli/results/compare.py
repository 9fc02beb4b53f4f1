"""`gradsweep compare`: two results folders beside each other, paired by victim where their victims agree."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.arguments import finished_folder
from orchestrator.runtime.terminal import console as terminal


def compare(
    one: Annotated[Path, typer.Argument(metavar="DIR1", help="Results folder.", callback=finished_folder)],
    other: Annotated[
        Path,
        typer.Argument(metavar="DIR2", help="Results folder to compare with it.", callback=finished_folder),
    ],
) -> None:
    """Compare the PSNR of two results folders, cell by cell: paired where victims agree, else unpaired."""
    from orchestrator.analysis.between.folders import compare_folders
    from orchestrator.report.terminal import folders_notes, folders_table

    console = terminal()
    compared = compare_folders(one, other)
    console.print(f"1: {one}\n2: {other}", soft_wrap=True, markup=False)
    for note in folders_notes(compared):
        console.print(note, soft_wrap=True, markup=False)
    if len(compared.table):
        console.print("", folders_table(compared.table, width=console.width))
