"""The answers of a sweep, one sentence or two for each question: which defense, at what price, how sure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.analysis.between.differences import LEVEL
from orchestrator.analysis.between.standing import Group, Standing
from orchestrator.analysis.intervals import FEWEST, FEWEST_SEEDS
from orchestrator.analysis.lines import Line
from orchestrator.report.conclusions import accuracy, decibels, majority, verdict
from orchestrator.report.terminal import megabytes, number, probability

LISTED = 4
"""Cells that a sentence names; the others are counted."""


@dataclass(frozen=True)
class Answer:
    """A question and its answer."""

    question: str
    text: str


@dataclass(frozen=True)
class Answered:
    """The answers about cells that compare with each other; `about` are the settings of their own, if any."""

    about: str
    answers: tuple[Answer, ...]


def answered(groups: Sequence[Group], lines: Sequence[Line], *, planned: int | None = None) -> list[Answered]:
    """The answers for each group of several cells; where there is none, what each line shows."""
    found = [Answered(_about(group), _answers(group)) for group in groups if group.defended]
    if found:
        return found
    return [
        Answered(line.name if len(lines) > 1 else "", (Answer("How much comes back?", said.text),))
        for line in lines
        if (said := verdict(line, planned=planned))
    ]


def _about(group: Group) -> str:
    return ", ".join(f"{path} = {value}" for path, value in group.own.items())


def _answers(group: Group) -> tuple[Answer, ...]:
    best = _best(group)
    return (
        Answer("Which defense?", _which(group, best)),
        Answer("At what price?", _price(group, best)),
        Answer("How sure?", _sure(group, best)),
    )


def _best(group: Group) -> Standing:
    """The defended cell with the least leak."""
    return group.defended[0]


def _which(group: Group, best: Standing) -> str:
    line, count = best.line, len(group.defended)
    among = f" of {count} defended cells" if count > 1 else ""
    said = f"{line.cell} leaks least{among}: its strongest attacker, {line.attacker}, {_gains(line)}"
    plain = _plain(group)
    if plain is not None:
        said += f"; without a defense ({plain.line.cell}) it is {_gain(plain.line)}, by {plain.line.attacker}"
        if plain.rank < best.rank:
            said = f"None leaks less than the cell without a defense. Of those with one, {said}"
    held = [
        each.line.cell for each in group.defended if not each.line.gain.low > 0 and each.line.gain.bounded
    ]
    if count > 1:
        names = f": {listed(held)}" if held else ""
        said += f". In {len(held)} of the {count} the attack is not shown to beat a guess without any signal{names}"
    return f"{said}."


def _gains(line: Line) -> str:
    return f"gains {_gain(line)} over the {line.control.name}"


def _gain(line: Line) -> str:
    return decibels(line.gain) if line.gain.bounded else f"{number(line.gain.mean)} dB"


def _price(group: Group, best: Standing) -> str:
    said = [_accuracies(group, best), _uploads(group, best)]
    on_front = [each for each in group.standings if each.front]
    if on_front:
        names = listed([each.line.cell for each in on_front])
        said.append(f"On the Pareto front of leak, accuracy and upload: {names}.")
    return " ".join(said)


def _accuracies(group: Group, best: Standing) -> str:
    utility, plain = best.line.utility, _plain(group)
    if utility is None:
        return "Accuracy was not measured here (utility in the sweep file), so what it costs is not known."
    ended = ", after a training that diverged" if utility.diverged else ""
    before = plain.line.utility if plain is not None else None
    beside = f", beside {accuracy(before)} without a defense" if before is not None else ""
    return (
        f"Under {best.line.cell} the model reaches {accuracy(utility)}{ended}{beside} ({majority(utility)})."
    )


def _uploads(group: Group, best: Standing) -> str:
    mine, plain = best.line.means["bytes_up"], _plain(group)
    if math.isnan(mine):
        return ""
    theirs = plain.line.means["bytes_up"] if plain is not None else math.nan
    beside = "" if math.isnan(theirs) or theirs == mine else f" instead of {megabytes(theirs)}"
    return f"A client sends {megabytes(mine)} MB{beside}."


def _sure(group: Group, best: Standing) -> str:
    places = f"{best.rank_low} to {best.rank_high}" if best.rank_low < best.rank_high else str(best.rank_low)
    said = [f"{_basis(group)}."]
    if len(group.standings) > 1:
        said.append(f"Its place among {len(group.standings)} cells, from the least leak, is {places} (95%).")
    if best.against.measured:
        apart = decibels(best.against) if best.against.bounded else f"{number(best.against.mean)} dB"
        said.append(
            f"It lies {apart} below {group.undefended}, paired by victim (p = {probability(best.p_holm)} after "
            f"Holm's correction)."
        )
    if group.least_p > LEVEL:
        said.append(
            "So few tell no two cells apart, whatever they show: the least corrected p that they can give is "
            f"{probability(group.least_p)}."
        )
    said.append("A stronger attacker than these may exist.")
    return " ".join(said)


def _basis(group: Group) -> str:
    """How many victims and seeds the answers rest on."""
    many = f"{group.victims} test victims" if group.victims > 1 else "One test victim"
    seeds = f" at {group.seeds} seeds" if group.seeds > 1 else ", one seed"
    few = ""
    if group.victims < FEWEST or 1 < group.seeds < FEWEST_SEEDS:
        few = ", too few for intervals"
    return f"{many}{seeds}{few}"


def _plain(group: Group) -> Standing | None:
    return next((each for each in group.standings if each.line.cell == group.undefended), None)


def listed(names: Sequence[str]) -> str:
    """So many names as a sentence holds, and how many more there are."""
    left = len(names) - LISTED
    return ", ".join(names[:LISTED]) + (f" and {left} more" if left > 0 else "")
