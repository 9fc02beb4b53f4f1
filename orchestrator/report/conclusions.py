"""Conclusions in words from one line of the summary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from orchestrator.analysis.intervals import FEWEST, FEWEST_SEEDS, Interval
from orchestrator.analysis.lines import Line, Utility
from orchestrator.analysis.summary import SUCCESS_DB
from orchestrator.report.terminal import number, percent, percents

Level = Literal["beats", "unclear", "worse", "single", "nothing"]

LABELS: dict[Level, str] = {
    "beats": "beats the control",
    "unclear": "not shown to beat the control",
    "worse": "worse than the control",
    "single": "no interval",
    "nothing": "nothing measured",
}
"""What each level is called, gravest first: names for what numbers show, none for a cell being safe."""


@dataclass(frozen=True)
class Verdict:
    """A level for the eye and the sentences that it stands for."""

    level: Level
    text: str


def verdict(line: Line, *, planned: int | None = None) -> Verdict:
    """The verdict on one cell and attacker; `planned` is how many test victims the sweep asks for."""
    if line.n == 0 or not line.psnr.measured:
        return Verdict("nothing", _nothing(line))
    level, first = _against_control(line)
    rest = [_exposed(line), _against_noise(line), _against_undefended(line)]
    if line.tests_failed:
        rest.append(f"{line.tests_failed} of {line.tests} test attacks failed and are in no figure here.")
    if planned is not None and line.tests < planned:
        rest.append(f"Preliminary: {line.tests} of {planned} test victims so far.")
    return Verdict(level, " ".join(sentence for sentence in (first, *rest) if sentence))


def utility_verdict(utility: Utility | None) -> str | None:
    """What the accuracy shows; None where none was measured."""
    if utility is None:
        return None
    reached, count = utility.accuracy, utility.trainings
    figures = f"{accuracy(utility)}, {majority(utility)}"
    about = "over validation images, for this one training" if count == 1 else f"over {count} trainings"
    interval = f"The interval is {about}."
    if utility.diverged:
        return f"Training with this defense diverged; the broken model's accuracy is {figures}."
    if not reached.bounded:
        return f"Accuracy {figures}; {count} trainings give no interval, which takes {FEWEST}."
    if reached.low > utility.majority:
        return f"The model learns: accuracy {figures}. {interval}"
    if reached.high < utility.majority:
        return f"The model does worse than always naming the majority class: accuracy {figures}. {interval}"
    return f"No evidence that the model learns more than to name the majority class: accuracy {figures}. {interval}"


def decibels(found: Interval) -> str:
    """A difference with its interval, with two decimals where a bound would round to 0.0."""
    digits = 2 if min(abs(found.low), abs(found.high)) < 0.05 else 1
    return f"{found.mean:.{digits}f} dB [{found.low:.{digits}f}, {found.high:.{digits}f}]"


def _nothing(line: Line) -> str:
    if line.hidden:
        return (
            f"Not observable: in all {line.trials} trials the threat model leaves the attacker no signal. "
            "That follows from the assumed view; no attack was measured."
        )
    if line.trials_failed and line.trials_failed == line.trials:
        return f"All {line.trials} trials failed: nothing was measured, and that is no evidence of safety."
    if line.tests and line.n == 0:
        lost = line.tests_failed
        return (
            f"No test attack was scored ({lost} failed, {line.tests - lost} not observable): nothing was "
            "measured, and that is no evidence of safety."
        )
    if line.tests:
        return "The attack ended without a single reconstruction: nothing was measured."
    return "No test victim has been attacked so far: tuning trials alone support no conclusion."


def _against_control(line: Line) -> tuple[Level, str]:
    control, gain = f"the {line.control.name}", line.gain
    if not gain.measured:
        return "single", "There is no control to compare with."
    if not gain.bounded:
        side = "above" if gain.mean > 0 else "below"
        few = f"{_victims(line.n)} {'give' if line.n > 1 else 'gives'} no interval, which takes {FEWEST}"
        if line.n >= FEWEST:
            few = f"{line.seeds} seeds give no interval, which takes {FEWEST_SEEDS}"
        return "single", (
            f"{few}: the "
            f"attack is {number(abs(gain.mean))} dB {side} {control} there, which supports no conclusion."
        )
    if gain.low > 0:
        return "beats", f"The attack beats {control} by {decibels(gain)}."
    if gain.high < 0:
        return "worse", (
            f"The attack does worse than {control}, by {decibels(gain.reversed)}. An attacker who ignored "
            "the signal and answered with that would come closer, so this shows a weak attack and is no evidence "
            "of safety."
        )
    return "unclear", (
        f"No evidence that the attack beats {control}: the interval of its gain, {decibels(gain)}, reaches 0."
    )


def _exposed(line: Line) -> str:
    verb = "reach" if line.reached > 1 else "reaches"
    lead = (
        f"{line.reached} of {line.images} images {verb}"
        if line.reached
        else f"No image of {line.images} reaches"
    )
    low, high = percent(line.success.low), percent(line.success.high)
    return (
        f"{lead} {SUCCESS_DB:.0f} dB (95% interval of their share: {low} to {high}); the most exposed has "
        f"{number(line.psnr_worst)} dB."
    )


def _against_noise(line: Line) -> str:
    over = line.over_prior
    if not over.bounded:
        return ""
    if over.low > 0:
        return (
            f"It beats its own result on noise of the same norm by {decibels(over)}: "
            "it makes use of the signal."
        )
    if over.high < 0:
        return f"On noise of the same norm it does better, by {decibels(over.reversed)}."
    return (
        f"It is not shown to beat its own result on noise of the same norm ({decibels(over)}): "
        "nothing says that it makes use of the signal."
    )


def _against_undefended(line: Line) -> str:
    lost = line.drop
    if not lost.bounded:
        return ""
    if lost.low > 0:
        return f"Against cell {line.undefended}, without a defense, it loses {decibels(lost)}."
    if lost.high < 0:
        return f"It comes closer than in cell {line.undefended}, without a defense, by {decibels(lost.reversed)}."
    return (
        f"No evidence that the defense hinders it: against cell {line.undefended}, without one, "
        f"it loses {decibels(lost)}."
    )


def accuracy(utility: Utility) -> str:
    """Accuracy with its interval, where it has one."""
    found = utility.accuracy
    return f"{percent(found.mean)}{f' {percents(found)}' if found.bounded else ''}"


def majority(utility: Utility) -> str:
    """The majority class's share."""
    return f"majority {percent(utility.majority)}"


def _victims(count: int) -> str:
    """So many victims, in words."""
    return "One victim" if count == 1 else f"{count} victims"
