"""The report's tables: what stands in each cell, with its interval below or beside it, and what it is sorted by."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from fl_core.base.types import clipped_to_zeros
from orchestrator.analysis.between.standing import Group, Standing
from orchestrator.analysis.comparison import attackers, by_cell
from orchestrator.analysis.intervals import Interval
from orchestrator.analysis.lines import Line, Privacy, Utility
from orchestrator.analysis.rounds import by_round
from orchestrator.analysis.strength import CriticalLine
from orchestrator.analysis.summary import records
from orchestrator.report.conclusions import majority
from orchestrator.report.notes import front_note
from orchestrator.report.terminal import (
    CRITERIA,
    NO_FIGURE,
    SUM_HEADINGS,
    bounds,
    critical_bracket,
    critical_interval,
    critical_value,
    epsilon,
    interval,
    megabytes,
    number,
    parameters,
    percent,
    percents,
    probability,
    sum_costs,
    summed_cells,
)
from orchestrator.results.columns import SUMMARY

Entry = dict[str, Any]


def summary(lines: Sequence[Line], *, planned: int | None, marks: Mapping[str, int]) -> list[Entry]:
    """A line for each cell and attacker with what decides: leak, budget, accuracy and cost, for one line of text each.

    `planned` is how many test victims there will be; `marks` has the numbers of the cells' footnotes.
    """
    return [
        {
            "cell": line.cell,
            "attacker": line.attacker,
            "mark": marks.get(line.cell),
            "entries": [
                _entry("n", str(line.n), _missing(line, planned), sort=line.n),
                _mean("PSNR, dB", line.psnr),
                _figure("Median", line.psnr_median),
                _figure("Worst", line.psnr_worst),
                _share(">= 20 dB", line.success),
                _mean("Gain, dB", line.gain),
                _entry("ε", epsilon(line), sort=line.privacy.epsilon if line.privacy else math.nan),
                _reached(line.utility),
                _entry("MB up", megabytes(line.means["bytes_up"]), sort=line.means["bytes_up"]),
                _figure("s/attack", line.means["seconds"]),
            ],
        }
        for line in lines
    ]


def further(lines: Sequence[Line]) -> list[Entry]:
    """The other figures of the summary's lines."""
    means = [
        column
        for column in SUMMARY
        if column.label
        and (not column.sparse or any(not math.isnan(line.means[column.name]) for line in lines))
    ]
    return [
        {
            "cell": line.cell,
            "attacker": line.attacker,
            "entries": [
                _entry("Control, dB", number(line.psnr_control), line.control.name, sort=line.psnr_control),
                *(
                    _entry(
                        column.label,
                        number(line.means[column.name], column.digits),
                        sort=line.means[column.name],
                    )
                    for column in means
                ),
                _figure("Oracle gap, dB", line.oracle_gap),
                _labels(line),
                _entry("ε total", _budget(line), *_statement(line)),
                _entry("Accuracy", NO_FIGURE) if line.utility is None else _trained(line.utility),
                _winning(line),
                _entry("Failed", f"{line.trials_failed} of {line.trials}", _hidden(line)),
            ],
        }
        for line in lines
    ]


def standing(group: Group) -> list[Entry]:
    """Ranks by leak and differences to the undefended cell, a line for each cell of a group."""
    return [
        {
            "cell": each.line.cell,
            "attacker": each.line.attacker,
            "entries": [
                _entry("Rank", str(each.rank), f"[{each.rank_low}, {each.rank_high}]", sort=each.rank),
                _mean("Gain, dB", each.line.gain),
                *_against(group, each),
                _entry("Not told from", str(each.alike), sort=each.alike),
                _entry("Accuracy", _accuracy(each.line)),
                _entry("MB up", megabytes(each.line.means["bytes_up"])),
                _entry("Pareto front", {True: "yes", False: "no", None: NO_FIGURE}[each.front], figure=False),
            ],
        }
        for each in group.standings
    ]


def importance(found: pd.DataFrame) -> list[Entry]:
    """Importances of each study's parameters, a line for each study; `found` is what `importances` gives."""
    return [
        {
            "study": str(study).replace("/", " / "),
            "entries": [
                _entry("Suggestions", str(rows["n"].iloc[0]), sort=float(rows["n"].iloc[0])),
                _entry(
                    "Most important",
                    "",
                    *(
                        f"{row['parameter']} {percent(row['importance'])} (p = {probability(row['p'])})"
                        for row in records(rows)
                    ),
                    figure=False,
                ),
            ],
        }
        for study, rows in found.groupby("study", sort=False)
    ]


def _against(group: Group, each: Standing) -> list[Entry]:
    """The paired difference to the undefended cell with its p; nothing where there is none."""
    if group.undefended is None:
        return []
    return [
        _mean(f"Below {group.undefended}, dB", each.against),
        _entry("p, Holm", probability(each.p_holm), sort=each.p_holm),
    ]


def _missing(line: Line, planned: int | None) -> str:
    """How many test victims are still to come, or have no figure."""
    lost = max(line.tests_failed, (planned or 0) - line.n)
    return f"{lost} missing" if lost > 0 else ""


def _hidden(line: Line) -> str:
    return f"{line.not_observable} not observable" if line.not_observable else ""


def _reached(utility: Utility | None) -> Entry:
    """The accuracy that the defense leaves, in one line."""
    if utility is None:
        return _entry("Accuracy", NO_FIGURE, sort=math.nan)
    return _share("Accuracy", utility.accuracy, warning="diverged" if utility.diverged else "")


def _winning(line: Line) -> Entry:
    winner = line.winner
    if winner is None:
        return _entry("Winning parameters", "no search", figure=False)
    won = f"suggestion {winner.suggestion} (0 to {winner.count - 1})"
    beside = front_note(winner).strip(" ()")
    return _entry(
        "Winning parameters", won, beside, *(parameters(winner.params) or [NO_FIGURE]), figure=False
    )


def _figure(label: str, value: float, digits: int = 1) -> Entry:
    return _entry(label, number(value, digits), sort=value)


def _entry(
    label: str, value: str, *notes: str, figure: bool = True, warning: str = "", sort: float | None = None
) -> Entry:
    """A cell of a table: a value, and after it notes such as its interval; empty ones are left out.

    `sort` is the number that rows are sorted by; without it that is the text.
    """
    shown = [note for note in notes if note]
    return {
        "label": label,
        "value": value,
        "notes": shown,
        "figure": figure,
        "warning": warning,
        "sort": None if sort is None else f"{sort:.6g}",
    }


def _mean(label: str, found: Interval, *notes: str) -> Entry:
    """A mean with its interval."""
    return _entry(label, number(found.mean), bounds(found), *notes, sort=found.mean)


def _share(label: str, found: Interval, *notes: str, warning: str = "") -> Entry:
    """A share with its interval."""
    limits = percents(found) if found.bounded else ""
    return _entry(label, percent(found.mean), limits, *notes, warning=warning, sort=found.mean)


def compared(lines: Sequence[Line]) -> list[Entry]:
    """Attackers side by side: a line for each cell."""
    compared = by_cell(lines)
    return [
        {
            "cell": one.cell,
            "entries": [
                *(_attacked(name, one.lines.get(name)) for name in attackers(compared)),
                _entry("Worst, dB", number(one.strongest.psnr_worst), one.strongest.attacker),
                _entry("Control, dB", number(one.strongest.psnr_control)),
                _entry("ε total", _budget(one.strongest), *_adjacency(one.strongest.privacy)),
                _entry("Accuracy", _accuracy(one.strongest)),
                _entry("MB up", megabytes(one.strongest.means["bytes_up"])),
                _entry("s/attack", number(one.strongest.means["seconds"])),
            ],
        }
        for one in compared
    ]


def summed(lines: Sequence[Line]) -> list[Entry]:
    """What secure sums cost, a line for each cell that has one."""
    return [
        {
            "cell": line.cell,
            "entries": [_entry(*pair) for pair in zip(SUM_HEADINGS, sum_costs(line), strict=True)],
        }
        for line in summed_cells(lines)
    ]


def _attacked(name: str, line: Line | None) -> Entry:
    """What one attacker reaches in a cell, and its lead over the first one there."""
    label = f"{name}, dB"
    if line is None:
        return _entry(label, NO_FIGURE)
    if line.hidden:
        return _entry(label, NO_FIGURE, "not observable")
    return _mean(label, line.psnr, f"lead {interval(line.lead)}" if line.lead.measured else "")


def critical(critical: Sequence[CriticalLine]) -> list[Entry]:
    """Where each defense begins to work, a line for each threshold, attacker and criterion."""
    return [
        {
            "threshold": line.threshold,
            "attacker": line.attacker,
            "entries": [
                _entry("Strength", line.strength, figure=False),
                _entry("Works when", CRITERIA[line.criterion.name], figure=False),
                _entry("Critical strength", critical_value(line)),
                _entry("95%", critical_interval(line)),
                _entry("Bracket", critical_bracket(line)),
                _entry("n", str(line.victims), f"{line.strengths} strengths"),
                _entry("Accuracy there", percent(line.accuracy)),
            ],
        }
        for line in critical
    ]


def _labels(line: Line) -> Entry:
    return _entry("Labels", "known") if line.labels == "known" else _share("Labels", line.label_accuracy)


def _trained(utility: Utility) -> Entry:
    """The accuracy that the defense leaves."""
    clipped = clipped_to_zeros(utility.not_finite) if utility.not_finite else ""
    warning = "diverged" if utility.diverged else ""
    return _share("Accuracy", utility.accuracy, majority(utility), clipped, warning=warning)


def _accuracy(line: Line) -> str:
    return NO_FIGURE if line.utility is None else percent(line.utility.accuracy.mean)


def rounds(lines: Sequence[Line]) -> list[Entry]:
    """Quality against round and accuracy, a line for each cell and attacker of a series."""
    return [
        {
            "series": series.name,
            "cell": line.cell,
            "entries": [
                _entry("Round", str(line.round)),
                _entry("Accuracy of the weights", percent(line.weights_accuracy)),
                _entry("n", str(line.n)),
                _mean("PSNR, dB", line.psnr),
                _entry("Worst, dB", number(line.psnr_worst)),
                _labels(line),
            ],
        }
        for series in by_round(lines)
        for line in series.lines
    ]


def _budget(line: Line) -> str:
    """The total epsilon, where there is a statement."""
    return NO_FIGURE if line.privacy is None else f"{line.privacy.epsilon:.3g}"


def _statement(line: Line) -> list[str]:
    """What a total epsilon is about, and what the rounds that were watched spend of it."""
    privacy = line.privacy
    if privacy is None:
        return []
    release = f"{privacy.epsilon_release:.3g} a release"
    several = line.watched > 1 and not math.isnan(line.epsilon_watched)
    watched = [f"{line.epsilon_watched:.3g} of the {line.watched} rounds watched"] if several else []
    return [*_adjacency(privacy), release, *watched, f"per {privacy.unit}", _protects(privacy.against)]


def _adjacency(privacy: Privacy | None) -> list[str]:
    """The adjacency that an epsilon is about, and the epsilon of the same noise under the stricter one."""
    if privacy is None:
        return []
    other = privacy.epsilon_replace_one
    stricter = privacy.adjacency == "zero_out" and not math.isnan(other)
    return [privacy.adjacency, *([f"{other:.3g} under replace_one"] if stricter else [])]


def _protects(against: str) -> str:
    """Whom the statement protects from, in words: who sees more than the adversary named here is not covered."""
    return (
        "against the server" if against == "server" else "against who sees the models; none from the server"
    )
