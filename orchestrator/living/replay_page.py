"""What a repetition of a trial came to, for a terminal."""

from __future__ import annotations

import json

from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.living.page import convergence
from orchestrator.living.replay import Replayed
from orchestrator.report.terminal import number

_LONG = 40
"""Longer values are cut."""


def show_replayed(done: Replayed, console: Console) -> None:
    """Print whether the figures are the same, else what differs and what may explain that."""
    first = done.now[0]
    if text := convergence(json.loads(first["convergence"] or "[]")):
        console.print(Text(text), soft_wrap=True)
    for row in done.now:
        if row["psnr"] is not None:
            console.print(Text(f"{row['image_id']}: PSNR {number(row['psnr'], 2)} dB"), soft_wrap=True)
    if first["error"]:
        console.print(Text(f"{first['status']}: {first['error']}"), soft_wrap=True)
    if done.same:
        console.print(Text(f"Trial {first['trial_id']} gave the same figures to the last digit."))
        return
    console.print(Text(f"Trial {first['trial_id']} gave other figures:"))
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False)
    for heading in ("image", "column", "recorded", "now"):
        table.add_column(Text(heading), overflow="fold")
    for entry in done.differences:
        table.add_row(*(Text(_cut(value)) for value in (entry.image, entry.column, entry.before, entry.now)))
    console.print(table)
    if done.explained:
        changed = ", ".join(
            f"{name} was {_cut(done.before[0][name])} and is {_cut(done.now[0][name])}"
            if name in ("host", "device")
            else name
            for name in done.explained
        )
        console.print(
            Text(f"Not the same as then: {changed}. Other machines and versions may round otherwise."),
            soft_wrap=True,
        )
    else:
        console.print("Machine and versions are the same as then.")


def _cut(value: object) -> str:
    text = str(value)
    return text if len(text) <= _LONG else f"{text[: _LONG - 3]}..."
