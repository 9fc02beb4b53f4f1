"""Attackers side by side: each cell once, with what every attacker reaches there and what the defense costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from orchestrator.analysis.summary import records

Line = dict[str, Any]


@dataclass(frozen=True)
class Compared:
    """One cell: its summary lines by attacker, in the sweep's order, and the one whose mean PSNR is greatest.

    `strongest` is the first line where nothing was measured.
    """

    cell: str
    lines: dict[str, Line]
    strongest: Line


def by_cell(table: pd.DataFrame) -> list[Compared]:
    """The cells of a summary that has several attackers, in its order; none where it has one."""
    if table["attacker"].nunique() < 2:
        return []
    found = []
    for cell, group in table.groupby("cell", sort=False):
        lines = {line["attacker"]: line for line in records(group)}
        measured = [line for line in lines.values() if not pd.isna(line["psnr"])]
        strongest = max(measured, key=lambda line: line["psnr"], default=next(iter(lines.values())))
        found.append(Compared(cell=str(cell), lines=lines, strongest=strongest))
    return found


def is_hidden(line: Mapping[Any, Any]) -> bool:
    """Whether the threat model left the attacker no signal in any trial of a summary line."""
    return bool(line["not_observable"]) and line["not_observable"] == line["trials"]


def attackers(compared: list[Compared]) -> list[str]:
    """All attackers' names in the order in which they come."""
    return list(dict.fromkeys(name for one in compared for name in one.lines))
