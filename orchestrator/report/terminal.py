"""The summary as a table on the terminal."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from orchestrator.analysis.comparison import Compared, attackers, is_hidden
from orchestrator.analysis.intervals import FEWEST
from orchestrator.analysis.strength import SUCCESS
from orchestrator.analysis.summary import differs_in_threat_alone, records

WIDTH = 80
"""Columns that a table takes at most, where its names allow it."""


def summary_table(table: pd.DataFrame, *, width: int = WIDTH) -> Table:
    """One line for each cell and attacker; PSNR, gain and loss in dB, brackets are 95% intervals.

    Columns without any figure are left out.
    """
    lines = records(table)
    columns = {
        "n": [str(line["n"]) for line in lines],
        "PSNR dB": [interval(line["psnr"], line["psnr_low"], line["psnr_high"]) for line in lines],
        "loss": [interval(line["drop"], line["drop_low"], line["drop_high"]) for line in lines],
        "worst": [number(line["psnr_worst"]) for line in lines],
        "con-\ntrol": [number(line["psnr_control"]) for line in lines],
        "gain": [number(line["gain"]) for line in lines],
        ">=20\ndB": [percent(line["success"]) for line in lines],
        "epsilon": [epsilon(line) for line in lines],
        "accu-\nracy": [
            f"{percent(line['accuracy'])}{' !' if line['diverged'] is True else ''}" for line in lines
        ],
    }
    always = ("n", "PSNR dB")
    figures = {name: texts for name, texts in columns.items() if name in always or {*texts} != {"-"}}
    names = [f"{line['cell']}{mark(line)} / {line['attacker']}" for line in lines]
    return figure_table(None, "cell / attacker", names, figures, width=width)


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


def epsilon(line: Mapping[Any, Any]) -> str:
    """The budget, in brackets where it does not protect from the server, who is the attacker in most views."""
    if _missing(line["epsilon"]):
        return "-"
    return f"{line['epsilon']:g}" if line["dp_against"] == "server" else f"({line['epsilon']:g})"


ADJACENCY = {
    "zero_out": "one contribution against zeros in its place",
    "replace_one": "one contribution against any other in its place",
}
"""What a privacy statement compares, by its adjacency."""


def adjacencies(table: pd.DataFrame) -> list[str]:
    """What the table's epsilons are about: their adjacency and, for `zero_out`, what they are under `replace_one`."""
    stated = table[table["epsilon"].notna()].drop_duplicates("cell")
    said = []
    for adjacency, lines in stated.groupby("adjacency", sort=False):
        cells = records(lines)
        names = "" if len(lines) == len(stated) else f" of {', '.join(line['cell'] for line in cells)}"
        said.append(f"epsilon{names}: over the planned rounds, {adjacency}: {ADJACENCY[str(adjacency)]}.")
        others = [
            f"{line['cell']} {line['epsilon_replace_one']:.3g}"
            for line in cells
            if adjacency != "replace_one" and not _missing(line["epsilon_replace_one"])
        ]
        if others:
            said.append(f"The same noise under replace_one: epsilon {', '.join(others)}.")
    return said


def rounds_table(series: pd.DataFrame, *, width: int = WIDTH) -> Table:
    """Quality against round and the attacked weights' accuracy; `series` as `by_round` gives it."""
    lines = records(series)
    columns = {
        "round": [str(line["round"]) for line in lines],
        "weights'\naccuracy": [percent(line["weights_accuracy"]) for line in lines],
        "n": [str(line["n"]) for line in lines],
        "PSNR dB": [interval(line["psnr"], line["psnr_low"], line["psnr_high"]) for line in lines],
        "worst": [number(line["psnr_worst"]) for line in lines],
        "labels\nright": [labels(line) for line in lines],
    }
    names = [str(line["series"]) for line in lines]
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
        "worst": [number(line["psnr_worst"]) for line in strongest],
        "epsilon": [epsilon(line) for line in strongest],
        "accu-\nracy": [
            f"{percent(line['accuracy'])}{' !' if line['diverged'] is True else ''}" for line in strongest
        ],
        "MB up": [megabytes(line["bytes_up"]) for line in strongest],
    }
    names = [f"{one.cell}{mark(one.strongest)}" for one in compared]
    return figure_table("Attackers side by side", "cell", names, columns, width=width)


def sum_costs_table(summed: list[dict[str, Any]], *, width: int = WIDTH) -> Table:
    """What secure sums cost; `summed` as `summed_cells` gives it."""
    costs = [sum_costs(line) for line in summed]
    columns = {name.replace(", ", "\n"): [line[i] for line in costs] for i, name in enumerate(SUM_HEADINGS)}
    return figure_table(
        "Cost of secure sums", "cell", [line["cell"] for line in summed], columns, width=width
    )


SUM_HEADINGS = ("MB up", "keys, s", "protect, s", "add, s", "open, s", "rounding error")
"""Of one client's upload; CPU seconds of all for keys, of one client to protect its update, to add, to open the sum."""


def summed_cells(table: pd.DataFrame) -> list[dict[str, Any]]:
    """One line of the summary for each cell whose updates were added under encryption or masks."""
    return records(table[table["rounding_error"].notna()].drop_duplicates("cell"))


def sum_costs(line: Mapping[Any, Any]) -> list[str]:
    """A cell's figures in the order of `SUM_HEADINGS`."""
    seconds = ("setup_seconds", "protect_seconds", "add_seconds", "reveal_seconds")
    figures = [f"{line[name]:.2g}" for name in (*seconds, "rounding_error")]
    return [megabytes(line["bytes_up"]), *figures]


def critical_strengths_table(critical: pd.DataFrame, *, width: int = WIDTH) -> Table:
    """Where each defense begins to work; `critical` as `critical_strengths` gives it.

    Below each interval stand the two measured strengths that the critical one lies between.
    """
    lines = records(critical)
    columns = {
        "works when": [CRITERIA[line["criterion"]] for line in lines],
        "critical": [critical_value(line) for line in lines],
        "95%\nbracket": [f"{critical_interval(line)}\n{critical_bracket(line)}" for line in lines],
        "n": [str(line["victims"]) for line in lines],
        "accuracy\nthere": [percent(line["accuracy"]) for line in lines],
    }
    names = [f"{line['threshold']}: {line['strength']} / {line['attacker']}" for line in lines]
    shown = figure_table("Critical strength", "strength / attacker", names, columns, width=width)
    shown.caption, shown.caption_justify = "\n".join(critical_notes(critical)) or None, "left"
    return shown


CRITERIA = {"gain": "gain <= 1 dB", "success": "successes <= 5%", "none": "no success"}
"""What each criterion asks of an attack for the defense to count as working."""


def critical_notes(critical: pd.DataFrame) -> list[str]:
    """What has to be said of a table of critical strengths: marks in it, intervals and criteria that it lacks."""
    said = []
    if any(_coarse(line) for line in critical.to_dict("records")):
        said.append("* Strengths lie too far apart: the interval would narrow with a larger refine.")
    if (critical["victims"] < FEWEST).any():
        said.append(f"Intervals need {FEWEST} victims.")
    refused = critical[critical["side"] == "refused"]
    if len(refused):
        images = refused["images"].min()
        said.append(
            f"5% of {images} images is less than one image and cannot be told from 0: 'successes <= 5%' needs "
            f"{SUCCESS.needs}. 'no success': the weakest strength from which on none of the {images} is recovered."
        )
    return said


def critical_value(line: Mapping[Any, Any]) -> str:
    """The critical strength; `<=` where the weakest strength already suffices, `>` where the strongest does not."""
    if line["side"] == "refused":
        return "-"
    sign = {"before": "<= ", "inside": "", "after": "> "}[line["side"]]
    return f"{sign}{_strength(line['critical'])}"


def critical_interval(line: Mapping[Any, Any]) -> str:
    """The interval from the weaker to the stronger end; an end outside of what was measured is left open."""
    if line["criterion"] == "none" or line["side"] == "refused" or line["victims"] < FEWEST:
        return "-"
    return f"[{_ends(line['weaker'], line['stronger'])}]"


def critical_bracket(line: Mapping[Any, Any]) -> str:
    """The measured strengths beside the critical one; marked where they are too far apart for the victims there are."""
    if line["side"] == "refused":
        return ""
    mark = " *" if _coarse(line) else ""
    return f"{_ends(line['bracket_weaker'], line['bracket_stronger'])}{mark}"


def _coarse(line: Mapping[Any, Any]) -> bool:
    return line["side"] == "inside" and not line["resolved"]


def _ends(weaker: float, stronger: float) -> str:
    return ", ".join(".." if math.isnan(end) else _strength(end) for end in (weaker, stronger))


def _strength(value: float) -> str:
    """Three digits of a number, or of what a share that is almost 1 lacks of it."""
    return f"1 - {1 - value:.3g}" if 0.9 < value < 1.0 else f"{value:.3g}"


def labels(line: Mapping[Any, Any]) -> str:
    """The share of labels that the attack found, with its interval; `known` where it was given them."""
    if line["labels"] == "known":
        return "known"
    low, high = percent(line["label_accuracy_low"]), percent(line["label_accuracy_high"])
    bracket = f" [{low}, {high}]" if "-" not in (low, high) else ""
    return f"{percent(line['label_accuracy'])}{bracket}"


def preselected(line: Mapping[Any, Any]) -> str:
    """What holds for one image of a signal that was chosen before the attack, not by its result."""
    figure = interval(line["psnr_preselected"], line["psnr_preselected_low"], line["psnr_preselected_high"])
    return f"{line['images']} images; the first of each signal, chosen beforehand: {figure} dB"


def mark(line: Mapping[Any, Any]) -> str:
    """What follows a cell's name: + where its threat model is its own, * where any other setting is, else nothing."""
    if line["differs"] == "{}":
        return ""
    return " +" if differs_in_threat_alone(line["differs"]) else " *"


def number(value: float | None, digits: int = 1) -> str:
    """A figure, or - where there is none."""
    return "-" if _missing(value) else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    """A share as a percentage, or - where there is none."""
    return "-" if _missing(value) else f"{100 * float(value or 0):.0f}%"


def interval(mean: float | None, low: float | None, high: float | None) -> str:
    """A mean with its interval."""
    if _missing(low) or _missing(high):
        return number(mean)
    return f"{number(mean)} [{number(low)}, {number(high)}]"


def megabytes(value: float | None) -> str:
    """Bytes in units of 10^6, with three digits."""
    return "-" if _missing(value) else f"{float(value or 0) / 1e6:.3g}"


def _psnr(line: Mapping[Any, Any] | None) -> str:
    """The mean with its interval, or why there is none."""
    if line is None:
        return "-"
    if is_hidden(line):
        return "hidden"
    return interval(line["psnr"], line["psnr_low"], line["psnr_high"])


def parameters(text: str) -> str:
    """Hyperparameters from JSON as name=value pairs."""
    pairs = json.loads(text).items()
    return ", ".join(f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in pairs) or "-"


def _missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
