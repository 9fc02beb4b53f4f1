"""The summary as a table on the terminal."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from orchestrator.analysis.between.folders import Folders
from orchestrator.analysis.comparison import Compared, attackers
from orchestrator.analysis.crossing import Ends
from orchestrator.analysis.intervals import FEWEST, Interval
from orchestrator.analysis.lines import Line, Privacy
from orchestrator.analysis.rounds import Series
from orchestrator.analysis.strength import NONE, SUCCESS, CriticalLine
from orchestrator.analysis.summary import records
from orchestrator.config.space import Params

WIDTH = 80
"""Columns that a table takes at most, where its names allow it."""


def summary_table(lines: Sequence[Line], *, width: int = WIDTH) -> Table:
    """One line for each cell and attacker; PSNR, gain and loss in dB, brackets are 95% intervals.

    Columns without any figure are left out.
    """
    columns: dict[str, list[str | None]] = {
        "n": [str(line.n) for line in lines],
        "PSNR dB": [interval(line.psnr) for line in lines],
    }
    columns |= {name: texts for name, texts in _figures(lines).items() if any(texts)}
    figures = {name: [text or NO_FIGURE for text in texts] for name, texts in columns.items()}
    names = [f"{line.cell}{mark(line)} / {line.attacker}" for line in lines]
    return figure_table(None, "cell / attacker", names, figures, width=width)


def _figures(lines: Sequence[Line]) -> dict[str, list[str | None]]:
    """What is shown where any line has it, by column; None where a line has none."""
    return {
        "loss": [interval(line.drop) if line.drop.measured else None for line in lines],
        "worst": [_known(line.psnr_worst) for line in lines],
        "con-\ntrol": [_known(line.psnr_control) for line in lines],
        "gain": [_known(line.gain.mean) for line in lines],
        ">=20\ndB": [percent(line.success.mean) if line.success.measured else None for line in lines],
        "epsilon": [epsilon(line) if line.privacy else None for line in lines],
        "accu-\nracy": [reached_accuracy(line) if line.utility else None for line in lines],
    }


def _known(value: float) -> str | None:
    return None if math.isnan(value) else number(value)


def figure_table(
    title: str | None, heading: str, names: Sequence[str], columns: Mapping[str, Sequence[str]], *, width: int
) -> Table:
    """A table of names and figures within `width` columns.

    Where that is too narrow, intervals go below their figures, and names go on below where their parts meet.
    """
    room = width - _widths(columns)
    if room < max(map(cell_len, names), default=0):
        columns = {name: [text.replace(" [", "\n[", 1) for text in texts] for name, texts in columns.items()}
        room = width - _widths(columns)
    shown = Table(
        title=title,
        title_justify="left",
        box=SIMPLE_HEAD,
        show_edge=False,
        padding=0,
    )
    shown.add_column(Text(_folded(heading, room)), overflow="fold")
    for name in columns:
        shown.add_column(Text(name), justify="right", no_wrap=True)
    for name, *figures in zip(names, *columns.values(), strict=True):
        shown.add_row(Text(_folded(name, room)), *map(Text, figures))
    return shown


def _widths(columns: Mapping[str, Sequence[str]]) -> int:
    """What the columns take together, each with the space before it."""
    return sum(1 + _longest([name, *texts]) for name, texts in columns.items())


def _longest(texts: Sequence[str]) -> int:
    return max((cell_len(part) for text in texts for part in text.split("\n")), default=0)


def _folded(name: str, room: int) -> str:
    """The name on lines of at most `room`, with breaks at spaces, in longer words where their parts meet."""
    lines = [""]
    for word in re.findall(r"[^ ]+ ?", name):
        parts = [word] if cell_len(word.rstrip()) <= room else re.findall(r"[^_.-]*[_.-]*", word)
        for part in parts:
            if lines[-1] and cell_len((lines[-1] + part).rstrip()) > room:
                lines.append("")
            lines[-1] += part
    return "\n".join(line.rstrip() for line in lines)


def epsilon(line: Line) -> str:
    """The budget, in brackets where it does not protect from the server, who is the attacker in most views."""
    if line.privacy is None:
        return NO_FIGURE
    text = f"{line.privacy.epsilon:g}"
    return text if line.privacy.against == "server" else f"({text})"


def reached_accuracy(line: Line) -> str:
    """The accuracy that the defense leaves, marked where a training diverged."""
    if line.utility is None:
        return NO_FIGURE
    return f"{percent(line.utility.accuracy.mean)}{' !' if line.utility.diverged else ''}"


ADJACENCY = {
    "zero_out": "one contribution against zeros in its place",
    "replace_one": "one contribution against any other in its place",
}
"""What a privacy statement compares, by its adjacency."""


def adjacencies(lines: Iterable[Line]) -> list[str]:
    """What the table's epsilons are about: their adjacency and, for `zero_out`, what they are under `replace_one`."""
    stated: dict[str, Privacy] = {}
    for line in lines:
        if line.privacy is not None:
            stated.setdefault(line.cell, line.privacy)
    said = []
    for adjacency in dict.fromkeys(privacy.adjacency for privacy in stated.values()):
        cells = {cell: privacy for cell, privacy in stated.items() if privacy.adjacency == adjacency}
        names = "" if len(cells) == len(stated) else f" of {', '.join(cells)}"
        said.append(f"epsilon{names}: over the planned rounds, {adjacency}: {ADJACENCY[adjacency]}.")
        others = [
            f"{cell} {privacy.epsilon_replace_one:.3g}"
            for cell, privacy in cells.items()
            if adjacency != "replace_one" and not math.isnan(privacy.epsilon_replace_one)
        ]
        if others:
            said.append(f"The same noise under replace_one: epsilon {', '.join(others)}.")
    return said


def rounds_table(series: Iterable[Series], *, width: int = WIDTH) -> Table:
    """Quality against round and the attacked weights' accuracy; `series` as `by_round` gives it."""
    named = [(each.name, line) for each in series for line in each.lines]
    lines = [line for _, line in named]
    columns = {
        "round": [str(line.round) for line in lines],
        "weights'\naccuracy": [percent(line.weights_accuracy) for line in lines],
        "n": [str(line.n) for line in lines],
        "PSNR dB": [interval(line.psnr) for line in lines],
        "worst": [number(line.psnr_worst) for line in lines],
        "labels\nright": [labels(line) for line in lines],
    }
    names = [name for name, _ in named]
    return figure_table(
        "Quality against round and accuracy", "defense / attacker", names, columns, width=width
    )


def comparison_table(compared: list[Compared], *, width: int = WIDTH) -> Table:
    """One line for each cell: every attacker's PSNR, and what the defense costs; `compared` as `by_cell` gives it."""
    strongest = [one.strongest for one in compared]
    columns = {
        **{
            f"{name}\nPSNR dB": [_psnr(one.lines.get(name)).replace(" [", "\n[", 1) for one in compared]
            for name in attackers(compared)
        },
        "worst": [number(line.psnr_worst) for line in strongest],
        "epsilon": [epsilon(line) for line in strongest],
        "accu-\nracy": [reached_accuracy(line) for line in strongest],
        "MB up": [megabytes(line.means["bytes_up"]) for line in strongest],
    }
    names = [f"{one.cell}{mark(one.strongest)}" for one in compared]
    return figure_table("Attackers side by side", "cell", names, columns, width=width)


def sum_costs_table(summed: list[Line], *, width: int = WIDTH) -> Table:
    """What secure sums cost; `summed` as `summed_cells` gives it."""
    costs = [sum_costs(line) for line in summed]
    columns = {name.replace(", ", "\n"): [line[i] for line in costs] for i, name in enumerate(SUM_HEADINGS)}
    return figure_table("Cost of secure sums", "cell", [line.cell for line in summed], columns, width=width)


SUM_HEADINGS = ("MB up", "keys, s", "protect, s", "add, s", "open, s", "rounding error")
"""Of one client's upload; CPU seconds of all for keys, of one client to protect its update, to add, to open the sum."""


def summed_cells(lines: Iterable[Line]) -> list[Line]:
    """One line of the summary for each cell whose updates were added under encryption or masks."""
    found: dict[str, Line] = {}
    for line in lines:
        if not math.isnan(line.means["rounding_error"]):
            found.setdefault(line.cell, line)
    return list(found.values())


def sum_costs(line: Line) -> list[str]:
    """A cell's figures in the order of `SUM_HEADINGS`."""
    seconds = ("setup_seconds", "protect_seconds", "add_seconds", "reveal_seconds")
    figures = [f"{line.means[name]:.2g}" for name in (*seconds, "rounding_error")]
    return [megabytes(line.means["bytes_up"]), *figures]


def critical_strengths_table(critical: Sequence[CriticalLine], *, width: int = WIDTH) -> Table:
    """Where each defense begins to work; `critical` as `critical_lines` gives it.

    Below each interval stand the two measured strengths that the critical one lies between.
    """
    columns = {
        "works when": [CRITERIA[line.criterion.name] for line in critical],
        "critical": [critical_value(line) for line in critical],
        "95%\nbracket": [f"{critical_interval(line)}\n{critical_bracket(line)}" for line in critical],
        "n": [str(line.victims) for line in critical],
        "accuracy\nthere": [percent(line.accuracy) for line in critical],
    }
    names = [f"{line.threshold}: {line.strength} / {line.attacker}" for line in critical]
    shown = figure_table("Critical strength", "strength / attacker", names, columns, width=width)
    shown.caption, shown.caption_justify = "\n".join(critical_notes(critical)) or None, "left"
    return shown


def folders_table(table: pd.DataFrame, *, width: int = WIDTH) -> Table:
    """Two results folders beside each other; `table` is that of `compare_folders`."""
    rows = records(table)
    between = [interval(Interval(row["difference"], row["low"], row["high"])) for row in rows]
    columns = {
        "n": [f"{row['n']}" if row["paired"] else f"{row['first_n']}, {row['second_n']}" for row in rows],
        "1\ndB": [number(row["first"]) for row in rows],
        "2\ndB": [number(row["second"]) for row in rows],
        "2 minus 1": [
            text + ("" if row["paired"] else " ~") for text, row in zip(between, rows, strict=True)
        ],
        "p": [probability(row["p"]) for row in rows],
        "p, Holm": [probability(row["p_holm"]) for row in rows],
    }
    names = [f"{row['cell']} / {row['attacker']}" for row in rows]
    return figure_table("PSNR of test victims", "cell / attacker", names, columns, width=width)


def folders_notes(compared: Folders) -> list[str]:
    """How to read the table of two folders, and what it lacks."""
    table = compared.table
    count, together = len(table), int(table["paired"].sum())
    said = [
        f"Of {count} cells and attackers in both, {together} are paired: their victims agree (data, seed, images)."
    ]
    if together < count:
        said.append(
            f"~ Not paired, since fewer than {FEWEST} victims agree: means of different victims, n of each folder."
        )
    partly = table[table["paired"] & ((table["n"] < table["first_n"]) | (table["n"] < table["second_n"]))]
    if len(partly):
        said.append(
            f"In {len(partly)} of them differences are over the victims that agree, means over all of a folder."
        )
    said.append(
        "Brackets: 95% intervals, none corrected. p: permutation test; p, Holm: corrected over the rows."
    )
    for number_, alone in enumerate((compared.first_alone, compared.second_alone), start=1):
        if alone:
            said.append(f"Only in {number_}: {', '.join(' / '.join(key) for key in alone)}.")
    return said


CRITERIA = {"gain": "gain <= 1 dB", "success": "successes <= 5%", "none": "no success"}
"""What each criterion asks of an attack for the defense to count as working."""


def critical_notes(critical: Sequence[CriticalLine]) -> list[str]:
    """What has to be said of a table of critical strengths: marks in it, intervals and criteria that it lacks."""
    said = []
    if any(line.coarse for line in critical):
        said.append("* Strengths lie too far apart: the interval would narrow with a larger refine.")
    if any(line.victims < FEWEST for line in critical):
        said.append(f"Intervals need {FEWEST} victims.")
    refused = [line.images for line in critical if line.side == "refused"]
    if refused:
        images = min(refused)
        said.append(
            f"5% of {images} images is less than one image and cannot be told from 0: 'successes <= 5%' needs "
            f"{SUCCESS.needs}. 'no success': the weakest strength from which on none of the {images} is recovered."
        )
    return said


def critical_value(line: CriticalLine) -> str:
    """The critical strength; `<=` where the weakest strength already suffices, `>` where the strongest does not."""
    if line.side == "refused":
        return NO_FIGURE
    sign = {"before": "<= ", "inside": "", "after": "> "}[line.side]
    return f"{sign}{_strength(line.critical)}"


def critical_interval(line: CriticalLine) -> str:
    """The interval from the weaker to the stronger end; an end outside of what was measured is left open."""
    if line.criterion == NONE or line.side == "refused" or line.victims < FEWEST:
        return NO_FIGURE
    return f"[{_ends(line.interval)}]"


def critical_bracket(line: CriticalLine) -> str:
    """The measured strengths beside the critical one; marked where they are too far apart for the victims there are."""
    if line.side == "refused":
        return ""
    return f"{_ends(line.bracket)}{' *' if line.coarse else ''}"


def _ends(ends: Ends) -> str:
    return ", ".join(".." if math.isnan(end) else _strength(end) for end in (ends.weaker, ends.stronger))


def _strength(value: float) -> str:
    """Three digits of a number, or of what a share that is almost 1 lacks of it."""
    return f"1 - {1 - value:.3g}" if 0.9 < value < 1.0 else f"{value:.3g}"


def labels(line: Line) -> str:
    """The share of labels that the attack found, with its interval; `known` where it was given them."""
    if line.labels == "known":
        return "known"
    found = line.label_accuracy
    return f"{percent(found.mean)}{f' {percents(found)}' if found.bounded else ''}"


def preselected(line: Line) -> str:
    """What holds for one image of a signal that was chosen before the attack, not by its result."""
    figure = interval(line.psnr_preselected)
    return f"{line.images} images; the first of each signal, chosen beforehand: {figure} dB"


def mark(line: Line) -> Literal["", " +", " *"]:
    """What follows a cell's name: + where its threat model is its own, * where any other setting is, else nothing."""
    if not line.differs:
        return ""
    return " +" if line.differs_in_threat_alone else " *"


NO_FIGURE = "-"
"""What stands in the place of a figure that there is not."""


def number(value: float | None, digits: int = 1) -> str:
    """A figure, or - where there is none."""
    return NO_FIGURE if value is None or math.isnan(value) else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    """A share as a percentage, or - where there is none."""
    return NO_FIGURE if value is None or math.isnan(value) else f"{100 * value:.0f}%"


def probability(p: float) -> str:
    """A p with two digits, or - where there is none."""
    return NO_FIGURE if math.isnan(p) else f"{p:.2g}" if p >= 0.001 else "< 0.001"


def percents(found: Interval) -> str:
    """The bounds of a share, in brackets."""
    return f"[{percent(found.low)}, {percent(found.high)}]"


def bounds(found: Interval) -> str:
    """The bounds of a mean, in brackets; nothing where there are none."""
    return f"[{number(found.low)}, {number(found.high)}]" if found.bounded else ""


def interval(found: Interval) -> str:
    """A mean with its interval."""
    return f"{number(found.mean)} {bounds(found)}".rstrip()


def megabytes(value: float) -> str:
    """Bytes in units of 10^6, with three digits."""
    return NO_FIGURE if math.isnan(value) else f"{value / 1e6:.3g}"


def _psnr(line: Line | None) -> str:
    """The mean with its interval, or why there is none."""
    if line is None:
        return NO_FIGURE
    return "hidden" if line.hidden else interval(line.psnr)


def parameters(params: Params) -> list[str]:
    """Hyperparameters as name=value."""
    return [f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in params.items()]
