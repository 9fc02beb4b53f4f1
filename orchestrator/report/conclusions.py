"""What the numbers of one summary line allow to say, in words, and no more than that."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from orchestrator.analysis.comparison import is_hidden
from orchestrator.analysis.intervals import FEWEST
from orchestrator.analysis.summary import SUCCESS_DB
from orchestrator.report.terminal import number, percent

Level = Literal["beats", "unclear", "worse", "single", "nothing"]

LABELS: dict[Level, str] = {
    "beats": "beats the control",
    "unclear": "not shown to beat the control",
    "worse": "worse than the control",
    "single": "no interval",
    "nothing": "nothing measured",
}
"""What each level is called, gravest first: names for what numbers show, none for a cell being safe."""

Line = Mapping[str, Any]


@dataclass(frozen=True)
class Verdict:
    """A level for the eye and the sentences that it stands for."""

    level: Level
    text: str


def verdict(line: Line, *, planned: int | None = None) -> Verdict:
    """The verdict on one cell and attacker; `planned` is how many test victims the sweep asks for."""
    if line["n"] == 0 or _missing(line["psnr"]):
        return Verdict("nothing", _nothing(line))
    level, first = _against_control(line)
    rest = [_exposed(line), _against_noise(line), _against_undefended(line)]
    if line["tests_failed"]:
        rest.append(
            f"{line['tests_failed']} of {line['tests']} test attacks failed and are in no figure here."
        )
    if planned is not None and line["tests"] < planned:
        rest.append(f"Preliminary: {line['tests']} of {planned} test victims so far.")
    return Verdict(level, " ".join(sentence for sentence in (first, *rest) if sentence))


def utility_verdict(line: Line) -> str | None:
    """What the accuracy shows; None where none was measured."""
    figures = accuracy(line)
    if figures == "-":
        return None
    count = line["trainings"]
    about = "over validation images, for this one training" if count == 1 else f"over {count} trainings"
    interval = f"The interval is {about}."
    if line["diverged"]:
        return f"Training with this defense diverged; the broken model's accuracy is {figures}."
    if _missing(line["accuracy_low"]):
        return f"Accuracy {figures}; {count} trainings give no interval, which takes {FEWEST}."
    if line["accuracy_low"] > line["majority"]:
        return f"The model learns: accuracy {figures}. {interval}"
    if line["accuracy_high"] < line["majority"]:
        return f"The model does worse than always naming the majority class: accuracy {figures}. {interval}"
    return f"No evidence that the model learns more than to name the majority class: accuracy {figures}. {interval}"


def decibels(mean: float, low: float, high: float) -> str:
    """A difference with its interval, with two decimals where a bound would round to 0.0."""
    digits = 2 if min(abs(low), abs(high)) < 0.05 else 1
    return f"{mean:.{digits}f} dB [{low:.{digits}f}, {high:.{digits}f}]"


def _nothing(line: Line) -> str:
    trials, failed = line["trials"], line["trials_failed"]
    if is_hidden(line):
        return (
            f"Not observable: in all {trials} trials the threat model leaves the attacker no signal. "
            "That follows from the assumed view; no attack was measured."
        )
    if failed and failed == trials:
        return f"All {trials} trials failed: nothing was measured, and that is no evidence of safety."
    if line["tests"] and line["n"] == 0:
        lost = line["tests_failed"]
        return (
            f"No test attack was scored ({lost} failed, {line['tests'] - lost} not observable): nothing was "
            "measured, and that is no evidence of safety."
        )
    if line["tests"]:
        return "The attack ended without a single reconstruction: nothing was measured."
    return "No test victim has been attacked so far: tuning trials alone support no conclusion."


def _against_control(line: Line) -> tuple[Level, str]:
    control = f"the {line['control']}"
    gain, low, high = (float(line[name]) for name in ("gain", "gain_low", "gain_high"))
    if math.isnan(gain):
        return "single", "There is no control to compare with."
    if math.isnan(low) or math.isnan(high):
        side = "above" if gain > 0 else "below"
        return "single", (
            f"{_victims(line['n'])} {'give' if line['n'] > 1 else 'gives'} no interval, which takes {FEWEST}: the "
            f"attack is {number(abs(gain))} dB {side} {control} there, which supports no conclusion."
        )
    if low > 0:
        return "beats", f"The attack beats {control} by {decibels(gain, low, high)}."
    if high < 0:
        return "worse", (
            f"The attack does worse than {control}, by {decibels(-gain, -high, -low)}. An attacker who ignored "
            "the signal and answered with that would come closer, so this shows a weak attack and is no evidence "
            "of safety."
        )
    return "unclear", (
        f"No evidence that the attack beats {control}: "
        f"the interval of its gain, {decibels(gain, low, high)}, reaches 0."
    )


def _exposed(line: Line) -> str:
    reached = round(float(line["success"]) * line["images"])
    verb = "reach" if reached > 1 else "reaches"
    lead = (
        f"{reached} of {line['images']} images {verb}" if reached else f"No image of {line['images']} reaches"
    )
    low, high = (percent(line[f"success_{end}"]) for end in ("low", "high"))
    return (
        f"{lead} {SUCCESS_DB:.0f} dB (95% interval of their share: {low} to {high}); the most exposed has "
        f"{number(line['psnr_worst'])} dB."
    )


def _against_noise(line: Line) -> str:
    mean, low, high = (float(line[f"over_prior{end}"]) for end in ("", "_low", "_high"))
    if math.isnan(low) or math.isnan(high):
        return ""
    if low > 0:
        return (
            f"It beats its own result on noise of the same norm by {decibels(mean, low, high)}: "
            "it makes use of the signal."
        )
    if high < 0:
        return f"On noise of the same norm it does better, by {decibels(-mean, -high, -low)}."
    return (
        f"It is not shown to beat its own result on noise of the same norm ({decibels(mean, low, high)}): "
        "nothing says that it makes use of the signal."
    )


def _against_undefended(line: Line) -> str:
    mean, low, high = (float(line[f"drop{end}"]) for end in ("", "_low", "_high"))
    if math.isnan(low) or math.isnan(high):
        return ""
    if low > 0:
        return f"Against cell {line['undefended']}, without a defense, it loses {decibels(mean, low, high)}."
    if high < 0:
        return (
            f"It comes closer than in cell {line['undefended']}, without a defense, "
            f"by {decibels(-mean, -high, -low)}."
        )
    return (
        f"No evidence that the defense hinders it: against cell {line['undefended']}, without one, "
        f"it loses {decibels(mean, low, high)}."
    )


def accuracy(line: Line) -> str:
    """Accuracy with its interval and the majority class's share; - where none was measured."""
    mean, low, high, majority = (
        percent(line[name]) for name in ("accuracy", "accuracy_low", "accuracy_high", "majority")
    )
    if mean == "-":
        return "-"
    bracket = "" if low == "-" else f" [{low}, {high}]"
    return f"{mean}{bracket}, majority {majority}"


def share(line: Line) -> tuple[str, ...]:
    """The success share with its interval, and its counts."""
    if _missing(line["success"]):
        return ("-",)
    low, high = percent(line["success_low"]), percent(line["success_high"])
    counts = f"{round(line['success'] * line['images'])} of {line['images']}"
    return f"{percent(line['success'])} [{low}, {high}]", counts


def _victims(count: int) -> str:
    """So many victims, in words."""
    return "One victim" if count == 1 else f"{count} victims"


def _missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
