"""Notes beside the terminal's table: how to read it, in what its rows differ, and what went wrong."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from fl_core.base.errors import alike
from fl_core.base.types import clipped_to_zeros
from orchestrator.analysis.intervals import FEWEST, FEWEST_SEEDS, share_interval
from orchestrator.analysis.lines import Line, Winner
from orchestrator.report.terminal import (
    NO_FIGURE,
    adjacencies,
    labels,
    mark,
    number,
    parameters,
    percent,
    preselected,
)

NAMED = 3
"""Rows that a line names; the others are counted."""
LISTED = 6
"""Lines of one kind of note; the others are in the report."""


def notes(lines: Sequence[Line]) -> list[str]:
    """How to read the table; what ran, once for all rows that share it; warnings, each of them."""
    scored = [line for line in lines if line.methods]
    kinds = (
        [(line.name, f"by {line.method}", line.method) for line in scored],
        [(line.name, f"labels right: {labels(line)}", labels(line)) for line in scored],
        [(line.name, certified(line), certified(line)) for line in scored if line.means["certified"] > 0],
        [(line.name, note, alike(note)) for line in lines for note in line.notes],
        [(line.name, preselected(line), line.name) for line in lines if line.batches],
        [(line.name, _winner(line.winner), line.name) for line in lines if line.winner],
    )
    said = [text for kind in kinds for text in _limited(_grouped(kind, rows=len(lines)))]
    return [*_legend(lines), *said, *corridor(lines), *_marks(lines), *_majority(lines), *_warnings(lines)]


def _legend(lines: Sequence[Line]) -> list[str]:
    said = [
        f"n: test victims. Brackets: 95% interval over them, none below {FEWEST}. worst: the most exposed image.",
        *repeated(lines),
        *controls(lines),
        *(said for said in (exposed(lines), chance(lines)) if said),
    ]
    if any(line.drop.measured for line in lines):
        said.append("loss: PSNR below the same attacker's in the cell without a defense, paired by victim.")
    return [*said, *adjacencies(lines), *watched(lines)]


def watched(lines: Iterable[Line]) -> list[str]:
    """Of which cells several rounds were watched, with what these rounds spend; nothing for single rounds."""
    said = {}
    for line in lines:
        if line.watched > 1:
            stated = not math.isnan(line.epsilon_watched)
            spent = f", which spend epsilon {line.epsilon_watched:.3g} together" if stated else ""
            said[line.cell] = f"{line.cell}: the same images were seen in {line.watched} rounds{spent}."
    return list(said.values())


def repeated(lines: Iterable[Line]) -> list[str]:
    """At how many seeds a sweep was run; nothing for one."""
    most = max((line.seeds for line in lines), default=1)
    if most < 2:
        return []
    return [
        f"Run at {most} seeds, each with its own weights, images of clients, noise and tuning: intervals are over "
        f"seeds and their victims, none below {FEWEST_SEEDS} seeds."
    ]


def controls(lines: Iterable[Line]) -> list[str]:
    """What the gains of a summary are over."""
    names = " or the ".join(dict.fromkeys(line.control.name for line in lines if line.n))
    return [f"control: PSNR of the {names}, no attack at all; gain: PSNR above that."] if names else []


def exposed(lines: Sequence[Line]) -> str:
    """What the share of recovered images is, and how much of it the fewest victims leave open."""
    fewest = min((line.n for line in lines if line.n and line.seeds == 1), default=0)
    share = ">=20 dB: share of images reconstructed that well"
    left = percent(share_interval(0.0, fewest).high)
    if not any(line.n for line in lines):
        return ""
    return f"{share}; none of {fewest} victims leaves up to {left} open." if fewest else f"{share}."


def chance(lines: Iterable[Line]) -> str:
    """How many of a summary's intervals of the gain are to be expected to miss; nothing for a single one."""
    count = sum(line.gain.bounded for line in lines)
    if count < 2:
        return ""
    about = f", here about {count / 20:.0f}" if count >= 20 else ""
    return f"{count} comparisons, each at 95%: one interval in 20 may miss by chance{about}."


def certified(line: Line) -> str:
    """Which share of the images the attack knows to be exact, without the truth."""
    return f"certified exact by the attack's own equations: {percent(line.means['certified'])} of the images"


def corridor(lines: Sequence[Line]) -> list[str]:
    """What attacks reached and what no attacker does, on one scale, for the lines that have a bound."""
    there = [line for line in lines if line.n and not math.isnan(line.means["psnr_bound"])]
    if not there:
        return []
    shown = ", ".join(
        f"{line.name} {line.psnr_of_mse:.1f} of at most {line.means['psnr_bound']:.1f}"
        for line in there[:LISTED]
    )
    left = f" and {len(there) - LISTED} more in the report" if len(there) > LISTED else ""
    return [
        "PSNR of the mean squared error, dB, beside what no attacker exceeds on Gaussian images like the public ones: "
        f"{shown}{left}."
    ]


def _grouped(told: Iterable[tuple[str, str, str]], *, rows: int) -> list[str]:
    """A line for each key, with the names of its rows and the first text; `told` has name, text and key."""
    groups: dict[str, dict[str, str]] = {}
    for name, text, key in told:
        groups.setdefault(key, {}).setdefault(name, text)
    said = []
    for texts in groups.values():
        first, *others = dict.fromkeys(texts.values())
        differing = " (its numbers differ between rows)" if others else ""
        said.append(f"{_names(list(texts), rows=rows)}: {first}{differing}")
    return said


def _names(names: Sequence[str], *, rows: int) -> str:
    if len(names) == rows > 1:
        return "all rows"
    others = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {others} more" if others > 0 else "")


def _limited(said: Sequence[str]) -> list[str]:
    left = len(said) - LISTED
    return [*said[:LISTED], *([f"... {left} more like these in the report"] if left > 0 else [])]


def _warnings(lines: Iterable[Line]) -> list[str]:
    said = []
    for line in lines:
        if line.utility and line.utility.diverged:
            said.append(f"{line.name}: ! training with this defense diverged")
        if line.utility and line.utility.not_finite:
            said.append(f"{line.name}: in training, {clipped_to_zeros(line.utility.not_finite)}")
        if line.trials_failed or line.not_observable:
            said.append(f"{line.name}: {_unmeasured(line)}")
    return said


def _unmeasured(line: Line) -> str:
    """How many trials have no figures, and why."""
    parts = []
    if line.trials_failed:
        why = f" ({line.failure.splitlines()[0]})" if line.failure.strip() else ""
        parts.append(f"{line.trials_failed} of {line.trials} trials failed{why}")
    if line.not_observable:
        parts.append(f"{line.not_observable} of {line.trials} not observable")
    return ", ".join(parts)


def _majority(lines: Iterable[Line]) -> list[str]:
    shares = {percent(line.utility.majority) for line in lines if line.utility}
    return [f"The majority class alone has accuracy {' / '.join(sorted(shares))}."] if shares else []


def _marks(lines: Iterable[Line]) -> list[str]:
    meaning = {
        " +": "+ has another threat model than the other cells; see the report.",
        " *": "* differs from the other cells in more than the defense; see the report.",
    }
    found = {mark(line) for line in lines}
    return [text for sign, text in meaning.items() if sign in found]


def _winner(winner: Winner) -> str:
    shown = ", ".join(parameters(winner.params)) or NO_FIGURE
    return f"won by suggestion {winner.suggestion}{front_note(winner)}: {shown}"


def front_note(winner: Winner) -> str:
    """What the winner's PSNR and work are beside the other end of its study's front; empty where there is no front."""
    dearest = winner.front[-1] if winner.front else None
    if dearest is None or dearest.psnr <= winner.value:
        return ""
    return (
        f" ({number(winner.value)} dB for the work of {winner.work:,.0f} images; the best, suggestion "
        f"{dearest.suggestion}, {number(dearest.psnr)} dB for {dearest.work:,.0f})"
    )
