"""The summary as a table on the terminal."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from fl_core.types import clipped_to_zeros
from orchestrator.analysis import differs_in_threat_alone, records
from orchestrator.comparison import Compared, attackers, is_hidden
from orchestrator.crossing import FEWEST_VICTIMS
from orchestrator.strength import SUCCESS


def summary_table(table: pd.DataFrame, *, title: str) -> Table:
    """One line for each cell and attacker, within 80 columns; PSNR and gain in dB, brackets are 95% intervals."""
    shown = Table(title=Text(title), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    shown.add_column("cell / attacker", overflow="fold")
    for name in ("n", "PSNR dB", "worst", "mean\nimage", "gain", ">=20\ndB", "epsilon", "accu-\nracy"):
        shown.add_column(name, justify="right", no_wrap=True)
    for line in table.to_dict("records"):
        shown.add_row(
            Text(f"{line['cell']}{mark(line)} / {line['attacker']}"),
            str(line["n"]),
            interval(line["psnr"], line["psnr_low"], line["psnr_high"]),
            number(line["psnr_worst"]),
            number(line["psnr_mean_image"]),
            number(line["gain"]),
            percent(line["success"]),
            epsilon(line),
            f"{percent(line['accuracy'])}{' !' if line['diverged'] is True else ''}",
        )
    return shown


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


def rounds_table(series: pd.DataFrame) -> Table:
    """Quality against round and the attacked weights' accuracy, within 80 columns; `series` as `by_round` gives it."""
    shown = Table(
        title="Quality against round and accuracy",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    shown.add_column("defense / attacker", overflow="fold")
    for name in ("round", "weights'\naccuracy", "n", "PSNR dB", "worst", "labels\nright"):
        shown.add_column(name, justify="right", no_wrap=True)
    for line in series.to_dict("records"):
        shown.add_row(
            Text(str(line["series"])),
            str(line["round"]),
            percent(line["weights_accuracy"]),
            str(line["n"]),
            interval(line["psnr"], line["psnr_low"], line["psnr_high"]),
            number(line["psnr_worst"]),
            labels(line),
        )
    return shown


def comparison_table(compared: list[Compared]) -> Table:
    """One line for each cell: every attacker's PSNR, and what the defense costs; `compared` as `by_cell` gives it."""
    shown = Table(title="Attackers side by side", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    shown.add_column("cell", overflow="fold")
    names = attackers(compared)
    for name in (*(f"{name}\nPSNR dB" for name in names), "worst", "epsilon", "accu-\nracy", "MB up"):
        shown.add_column(Text(name), justify="right", no_wrap=True)
    for one in compared:
        line = one.strongest
        shown.add_row(
            Text(f"{one.cell}{mark(line)}"),
            *(_psnr(one.lines.get(name)).replace(" [", "\n[", 1) for name in names),
            number(line["psnr_worst"]),
            epsilon(line),
            f"{percent(line['accuracy'])}{' !' if line['diverged'] is True else ''}",
            megabytes(line["bytes_up"]),
        )
    return shown


def sum_costs_table(summed: list[dict[str, Any]]) -> Table:
    """What secure sums cost, within 80 columns; `summed` as `summed_cells` gives it."""
    shown = Table(title="Cost of secure sums", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    shown.add_column("cell", overflow="fold")
    for name in SUM_HEADINGS:
        shown.add_column(name.replace(", ", "\n"), justify="right", no_wrap=True)
    for line in summed:
        shown.add_row(Text(line["cell"]), *sum_costs(line))
    return shown


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


def critical_strengths_table(critical: pd.DataFrame) -> Table:
    """Where each defense begins to work, within 80 columns; `critical` as `critical_strengths` gives it.

    Below each interval stand the two measured strengths that the critical one lies between.
    """
    shown = Table(
        title="Critical strength",
        title_justify="left",
        caption="\n".join(critical_notes(critical)) or None,
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    shown.add_column("strength / attacker", overflow="fold")
    for name in ("works when", "critical", "95%\nbracket", "n", "accuracy\nthere"):
        shown.add_column(name, justify="right", no_wrap=name != "works when")
    for line in critical.to_dict("records"):
        shown.add_row(
            Text(f"{line['threshold']}: {line['strength']} / {line['attacker']}"),
            CRITERIA[line["criterion"]],
            critical_value(line),
            Text(f"{critical_interval(line)}\n{critical_bracket(line)}"),
            str(line["victims"]),
            percent(line["accuracy"]),
        )
    return shown


CRITERIA = {"gain": "gain <= 1 dB", "success": "successes <= 5%", "none": "no success"}
"""What each criterion asks of an attack for the defense to count as working."""


def critical_notes(critical: pd.DataFrame) -> list[str]:
    """What has to be said of a table of critical strengths: marks in it, intervals and criteria that it lacks."""
    said = []
    if any(_coarse(line) for line in critical.to_dict("records")):
        said.append("* Strengths lie too far apart: the interval would narrow with a larger refine.")
    if (critical["victims"] < FEWEST_VICTIMS).any():
        said.append(f"Intervals need {FEWEST_VICTIMS} victims.")
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
    if line["criterion"] == "none" or line["side"] == "refused" or line["victims"] < FEWEST_VICTIMS:
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


def notes(table: pd.DataFrame) -> list[str]:
    """What the table has no room for: how to read it, what ran and why, labels, majority class, failures."""
    said = [
        "n: test victims. Brackets: 95% interval. worst: the most exposed image. mean image: PSNR of the mean",
        "public face, no attack at all; gain: PSNR above that. >=20 dB: share of images reconstructed that well.",
    ]
    said.extend(adjacencies(table))
    for line in table.to_dict("records"):
        name = f"{line['cell']} / {line['attacker']}"
        if line["method"]:
            said.append(f"{name}: by {line['method']}; labels right: {labels(line)}")
        if line["images"] > line["n"]:
            said.append(f"{name}: {preselected(line)}")
        said.extend(f"{name}: {note}" for note in json.loads(line["notes"]))
        if line["suggestions"]:
            said.append(
                f"{name}: won by suggestion {line['suggestion']:.0f}: {parameters(line['hyperparameters'])}"
            )
        if line["diverged"] is True:
            said.append(f"{name}: ! training with this defense diverged")
        if not _missing(line["not_finite"]) and line["not_finite"]:
            said.append(f"{name}: in training, {clipped_to_zeros(int(line['not_finite']))}")
        if line["trials_failed"] or line["not_observable"]:
            said.append(
                f"{name}: {line['trials_failed']} of {line['trials']} trials failed, "
                f"{line['not_observable']} not observable"
            )
    majority = {percent(share) for share in table["majority"]} - {"-"}
    if majority:
        said.append(f"The majority class alone has accuracy {' / '.join(sorted(majority))}.")
    marks = {mark(line) for line in table.to_dict("records")}
    if " +" in marks:
        said.append("+ has another threat model than the other cells; see the report.")
    if " *" in marks:
        said.append("* differs from the other cells in more than the defense; see the report.")
    return said


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
