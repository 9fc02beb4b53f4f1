"""Attackers side by side: each cell once, with what every attacker reaches there and what the defense costs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from orchestrator.analysis.lines import Line


@dataclass(frozen=True)
class Compared:
    """One cell: its summary lines by attacker, in the sweep's order, and the one whose mean PSNR is greatest.

    `strongest` is the first line where nothing was measured.
    """

    cell: str
    lines: dict[str, Line]
    strongest: Line


def by_cell(lines: Sequence[Line]) -> list[Compared]:
    """The cells of a summary that has several attackers, in its order; none where it has one."""
    if len({line.attacker for line in lines}) < 2:
        return []
    cells = _cells(lines)
    return [Compared(cell=cell, lines=there, strongest=_strongest(there)) for cell, there in cells.items()]


def strongest_by_cell(lines: Iterable[Line]) -> dict[str, Line]:
    """The line of each cell's strongest attacker, in the summary's order; the first where nothing was measured."""
    return {cell: _strongest(there) for cell, there in _cells(lines).items()}


def _cells(lines: Iterable[Line]) -> dict[str, dict[str, Line]]:
    cells: dict[str, dict[str, Line]] = {}
    for line in lines:
        cells.setdefault(line.cell, {})[line.attacker] = line
    return cells


def _strongest(lines: dict[str, Line]) -> Line:
    measured = [line for line in lines.values() if line.psnr.measured]
    return max(measured, key=lambda line: line.psnr.mean, default=next(iter(lines.values())))


def attackers(compared: Iterable[Compared]) -> list[str]:
    """All attackers' names in the order in which they come."""
    return list(dict.fromkeys(name for one in compared for name in one.lines))
