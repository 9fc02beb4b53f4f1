"""Quality against the round whose weights are attacked: the cells of a sweep that differ in it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.analysis.lines import Line
from orchestrator.io.identity import canonical


@dataclass(frozen=True)
class Series:
    """Lines that differ in the attacked round alone, in its order."""

    name: str
    lines: tuple[Line, ...]


def by_round(lines: Iterable[Line]) -> list[Series]:
    """The series over rounds among the lines with a figure.

    A series is one attacker against cells whose defense and declared differences are the same but for
    `capture.round`. There is none where no cells differ in their round, or nothing was measured there.
    """
    alike: dict[tuple[str, str, str], list[Line]] = {}
    for line in lines:
        if line.psnr.measured:
            alike.setdefault((line.attacker, line.defense_params, _others(line)), []).append(line)
    return [
        Series(_name(group[0]), tuple(sorted(group, key=lambda line: line.round)))
        for group in alike.values()
        if len({line.round for line in group}) > 1
    ]


def _others(line: Line) -> str:
    """The declared differences but for the round; empty for none."""
    others = {path: value for path, value in line.differs.items() if path != "capture.round"}
    return canonical(others) if others else ""


def _name(line: Line) -> str:
    budget = ""
    if line.privacy is not None:
        against = "" if line.privacy.against == "server" else " against the public"
        budget = f" (epsilon {line.privacy.epsilon:g}, {line.privacy.adjacency}{against})"
    others = _others(line)
    return f"{line.defense}{budget}{others and f' {others}'} / {line.attacker}"
