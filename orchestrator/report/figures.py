"""The report's figures as PNG bytes, in a light and a dark version."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from orchestrator.analysis.comparison import Compared, attackers
from orchestrator.analysis.intervals import Interval
from orchestrator.analysis.lines import Line
from orchestrator.analysis.rounds import Series
from orchestrator.analysis.summary import SUCCESS_DB

_MARKERS = "oDs^vP*X"
_DASHES: tuple[Literal["-", "--", ":", "-."], ...] = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class Theme:
    """Colours of one version of the figures."""

    name: str
    paper: str
    ink: str
    muted: str
    grid: str
    control: str
    colours: tuple[str, ...]


LIGHT = Theme(
    "light",
    "#ffffff",
    "#1b2733",
    "#5b6875",
    "#dfe4e9",
    "#c2410c",
    ("#0b6bcb", "#1a7f5a", "#8e4bb8", "#c0265f", "#8a6d00", "#5b4a3f", "#3f6b8a", "#5c7a1f"),
)
DARK = Theme(
    "dark",
    "#151c23",
    "#e6ebf0",
    "#9aa7b4",
    "#2c3741",
    "#fb923c",
    ("#6cb2ff", "#5fd3a5", "#cf9bf2", "#f58bb0", "#e0d04c", "#cbb6a6", "#93bcd8", "#b3d16a"),
)
THEMES = (LIGHT, DARK)


def psnr_figure(lines: Sequence[Line], victims: Mapping[str, pd.DataFrame], theme: Theme) -> bytes:
    """PSNR of every test victim, with mean and interval, beside the controls; one band for each line.

    `victims` has the figures of each line's test victims, by its name.
    """
    figure, axes = _canvas(1.25 + 0.5 * len(lines), theme)
    cells = list(dict.fromkeys(line.cell for line in lines))
    for i, line in enumerate(lines):
        values = victims[line.name]
        colour = theme.colours[cells.index(line.cell) % len(theme.colours)]
        spread = np.linspace(-0.16, 0.16, len(values)) if len(values) > 1 else np.zeros(len(values))
        axes.scatter(values["psnr"], i + spread, s=20, color=colour, alpha=0.55, linewidths=0, zorder=3)
        _interval(axes, line.psnr, i, theme)
        _tick(axes, values["psnr_control"].mean(), i, theme.control, "-")
        _tick(axes, values["psnr_prior"].mean(), i, theme.muted, ":")
    axes.axvline(SUCCESS_DB, color=theme.ink, linewidth=1, linestyle=(0, (5, 3)), zorder=1)
    names = [line.name for line in lines]
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel("PSNR (dB), one dot per test victim", color=theme.muted)
    axes.grid(axis="x", color=theme.grid, linewidth=0.7)
    _legend(figure, _psnr_keys(theme), theme, columns=2)
    return _png(figure)


def utility_figure(lines: Sequence[Line], theme: Theme) -> bytes:
    """Accuracy against mean PSNR, with intervals of both; for lines that have both."""
    figure, axes = _canvas(3.9, theme)
    cells = list(dict.fromkeys(line.cell for line in lines))
    attackers = list(dict.fromkeys(line.attacker for line in lines))
    keys: list[tuple[Line2D, str]] = []
    shown = [(line, line.utility) for line in lines if line.utility and line.psnr.measured]
    for line, utility in shown:
        colour = theme.colours[cells.index(line.cell) % len(theme.colours)]
        marker = _MARKERS[attackers.index(line.attacker) % len(_MARKERS)]
        axes.errorbar(
            line.psnr.mean,
            100 * utility.accuracy.mean,
            xerr=_arms(line.psnr, 1.0),
            yerr=_arms(utility.accuracy, 100.0),
            fmt=marker,
            color=colour,
            markersize=7,
            elinewidth=1.1,
            capsize=2.5,
            markerfacecolor=theme.paper if utility.diverged else colour,
        )
        ended = " (diverged)" if utility.diverged else ""
        key = Line2D([], [], color=colour, marker=marker, linestyle="", markersize=6)
        keys.append((key, f"{line.name}{ended}"))
    for share in sorted({round(utility.majority, 6) for _, utility in shown}):
        axes.axhline(100 * share, color=theme.control, linewidth=1.2, zorder=1)
    keys.append((Line2D([], [], color=theme.control), "majority class"))
    axes.set_xlabel("mean PSNR of the attack (dB): further left leaks less", color=theme.muted)
    axes.set_ylabel("accuracy (%)", color=theme.muted)
    axes.grid(color=theme.grid, linewidth=0.7)
    _legend(figure, keys, theme, columns=2)
    return _png(figure)


def tradeoff_figure(compared: Sequence[Compared], theme: Theme) -> bytes:
    """Privacy and utility of many cells: beside each other what every attacker reaches and what accuracy is left.

    One band for each cell. On the left the strongest attacker filled, the others hollow, and the control;
    on the right the accuracy with its interval, and the majority class.
    """
    figure = _paper(1.5 + 0.36 * len(compared), theme)
    axes, right = figure.subplots(1, 2, width_ratios=(1.7, 1.0), gridspec_kw={"wspace": 0.08})
    _plain(axes, theme)
    _plain(right, theme)
    names = attackers(list(compared))
    for place, one in enumerate(compared):
        for number, (name, line) in enumerate(one.lines.items()):
            colour = theme.colours[names.index(name) % len(theme.colours)]
            y = place + 0.26 * (number - (len(one.lines) - 1) / 2.0)
            face = colour if line is one.strongest else theme.paper
            _point(axes, line.psnr, y, marker=_marker(names, name), colour=colour, face=face)
        line, utility = one.strongest, one.strongest.utility
        _tick(axes, line.psnr_control, place, theme.control, "-")
        if utility is not None:
            face = theme.paper if utility.diverged else theme.ink
            _point(right, utility.accuracy, place, scale=100.0, marker="D", colour=theme.ink, face=face)
            _tick(right, 100 * utility.majority, place, theme.control, ":")
    for panel in (axes, right):
        panel.set_ylim(len(compared) - 0.5, -0.5)
        panel.grid(axis="x", color=theme.grid, linewidth=0.7)
    axes.axvline(SUCCESS_DB, color=theme.ink, linewidth=1, linestyle=(0, (5, 3)), zorder=1)
    axes.set_yticks(range(len(compared)), [one.cell for one in compared], parse_math=False)
    right.set_yticks(range(len(compared)), [""] * len(compared))
    axes.set_xlabel("mean PSNR (dB): left leaks less", color=theme.muted)
    right.set_xlabel("accuracy (%)", color=theme.muted)
    _legend(figure, _tradeoff_keys(names, theme), theme, columns=3)
    return _png(figure)


def round_figure(series: Sequence[Series], theme: Theme) -> bytes:
    """Mean PSNR with its interval against the attacked round, and the accuracy of those weights on a second axis.

    `series` is what `by_round` gives.
    """
    figure, axes = _canvas(3.9, theme)
    right = axes.twinx()
    right.tick_params(colors=theme.control, labelsize=9, length=0)
    right.spines[:].set_visible(False)
    keys: list[tuple[Line2D, str]] = []
    drawn: list[list[tuple[int, float]]] = []
    for i, each in enumerate(series):
        colour, marker = theme.colours[i % len(theme.colours)], _MARKERS[i % len(_MARKERS)]
        rounds = [line.round for line in each.lines]
        axes.plot(rounds, [line.psnr.mean for line in each.lines], color=colour, linewidth=1.6)
        for line in each.lines:
            arms = _arms(line.psnr, 1.0)
            axes.errorbar(line.round, line.psnr.mean, yerr=arms, fmt=marker, color=colour, capsize=3)
        keys.append((Line2D([], [], color=colour, marker=marker, markersize=6), each.name))
        accuracy = [
            (line.round, 100 * line.weights_accuracy)
            for line in each.lines
            if not math.isnan(line.weights_accuracy)
        ]
        if accuracy and accuracy not in drawn:  # Most series attack the same weights.
            right.plot(*zip(*accuracy, strict=True), ":s", color=theme.control, markersize=4)
            drawn.append(accuracy)
    keys.append((Line2D([], [], color=theme.control, linestyle=":", marker="s"), "accuracy of the weights"))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("round whose weights are attacked", color=theme.muted)
    axes.set_ylabel("mean PSNR (dB)", color=theme.muted)
    right.set_ylabel("accuracy (%)", color=theme.control)
    axes.grid(color=theme.grid, linewidth=0.7)
    _legend(figure, keys, theme, columns=2)
    return _png(figure)


def history_figure(studies: pd.DataFrame, cells: Sequence[str], theme: Theme) -> bytes:
    """Tuning PSNR of every suggestion and the best so far, by study.

    Suggestions that failed (x) or were pruned (v) stand on the axis.
    `cells` gives each cell the colour that it has in the other figures.
    """
    names = sorted(dict.fromkeys(studies["study"]), key=lambda name: cells.index(name.partition("/")[0]))
    # The legend has a line for two studies, and must leave room for the curves.
    figure, axes = _canvas(3.0 + 0.2 * math.ceil(len(names) / 2), theme)
    attackers = list(dict.fromkeys(name.partition("/")[2] for name in names))
    keys = []
    for name in names:
        cell, _, attacker = name.partition("/")
        colour = theme.colours[cells.index(cell) % len(theme.colours)]
        dash = _DASHES[attackers.index(attacker) % len(_DASHES)]
        told = studies[(studies["study"] == name) & studies["state"].isin(["ok", "failed", "pruned"])]
        told = told.sort_values("suggestion")
        number, value = told["suggestion"], told["value"].astype(float)
        axes.scatter(number, value, s=14, color=colour, alpha=0.45, linewidths=0, zorder=2)
        axes.step(number, value.cummax().ffill(), where="post", color=colour, linestyle=dash, linewidth=1.6)
        for state, marker in (("failed", "x"), ("pruned", "v")):
            lost = number[told["state"] == state]
            floor = axes.get_xaxis_transform()
            axes.scatter(lost, [0.02] * len(lost), marker=marker, s=18, color=colour, transform=floor)
        keys.append((Line2D([], [], color=colour, linestyle=dash), name.replace("/", " / ")))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("suggestion", color=theme.muted)
    axes.set_ylabel("PSNR on tuning victims (dB)", color=theme.muted)
    axes.grid(color=theme.grid, linewidth=0.7)
    _legend(figure, keys, theme, columns=2)
    return _png(figure)


def _tradeoff_keys(names: Sequence[str], theme: Theme) -> list[tuple[Line2D, str]]:
    keys = [
        (
            Line2D(
                [], [], color=theme.colours[i % len(theme.colours)], marker=_marker(names, name), linestyle=""
            ),
            name,
        )
        for i, name in enumerate(names)
    ]
    return [
        *keys,
        (Line2D([], [], color=theme.control, linewidth=2), "control, without a signal"),
        (Line2D([], [], color=theme.ink, linewidth=1, linestyle=(0, (5, 3))), f"{SUCCESS_DB:.0f} dB"),
        (Line2D([], [], color=theme.ink, marker="D", linestyle="", markersize=4.5), "accuracy"),
        (Line2D([], [], color=theme.control, linewidth=2, linestyle=":"), "majority class"),
    ]


def _marker(names: Sequence[str], name: str) -> str:
    return _MARKERS[names.index(name) % len(_MARKERS)]


def _psnr_keys(theme: Theme) -> list[tuple[Line2D, str]]:
    return [
        (Line2D([], [], color=theme.muted, marker="o", linestyle="", markersize=4.5), "test victim"),
        (Line2D([], [], color=theme.ink, marker="D", markersize=4.5), "mean, 95% interval"),
        (Line2D([], [], color=theme.control, linewidth=2), "control, without a signal"),
        (Line2D([], [], color=theme.muted, linewidth=2, linestyle=":"), "same attack on noise"),
        (Line2D([], [], color=theme.ink, linewidth=1, linestyle=(0, (5, 3))), f"{SUCCESS_DB:.0f} dB"),
    ]


def _canvas(height: float, theme: Theme) -> tuple[Figure, Axes]:
    figure = _paper(height, theme)
    axes = figure.add_subplot()
    _plain(axes, theme)
    return figure, axes


def _paper(height: float, theme: Theme) -> Figure:
    return Figure(figsize=(5.2, height), dpi=200, facecolor=theme.paper, layout="constrained")


def _plain(axes: Axes, theme: Theme) -> None:
    axes.set_facecolor(theme.paper)
    axes.tick_params(colors=theme.ink, labelsize=9, length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(theme.grid)
    axes.set_axisbelow(True)


def _point(
    axes: Axes,
    found: Interval,
    y: float,
    *,
    scale: float = 1.0,
    marker: str,
    colour: str,
    face: str,
) -> None:
    """A figure with its interval, at height `y`."""
    axes.errorbar(
        scale * found.mean,
        y,
        xerr=_arms(found, scale),
        fmt=marker,
        color=colour,
        markerfacecolor=face,
        markersize=5,
        elinewidth=1.1,
        capsize=2,
    )


def _interval(axes: Axes, found: Interval, y: float, theme: Theme) -> None:
    axes.errorbar(
        found.mean,
        y,
        xerr=_arms(found, 1.0),
        fmt="D",
        color=theme.ink,
        markersize=4.5,
        elinewidth=1.6,
        capsize=3,
        zorder=4,
    )


def _arms(found: Interval, scale: float) -> list[list[float]] | None:
    """The lengths of an interval's two sides; None where it has none, which leaves the bare marker."""
    if not np.isfinite([found.low, found.high]).all():
        return None
    return [[scale * max(0.0, found.mean - found.low)], [scale * max(0.0, found.high - found.mean)]]


def _tick(axes: Axes, x: float, y: int, colour: str, style: str) -> None:
    if np.isfinite(x):
        axes.plot([x, x], [y - 0.34, y + 0.34], color=colour, linewidth=2, linestyle=style, zorder=2)


def _legend(figure: Figure, keys: Iterable[tuple[Line2D, str]], theme: Theme, *, columns: int) -> None:
    handles, labels = zip(*keys, strict=True)
    # A leading space: matplotlib would leave out a label that begins with _.
    legend = figure.legend(
        list(handles),
        [f" {label}" for label in labels],
        loc="outside lower left",
        ncols=columns,
        frameon=False,
        fontsize=8.5,
        labelcolor=theme.ink,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
