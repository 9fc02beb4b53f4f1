"""Figures of privacy and utility: accuracy against leak, as points or in bands."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.lines import Line2D

from orchestrator.analysis.comparison import Compared, attackers
from orchestrator.analysis.lines import Line
from orchestrator.analysis.summary import SUCCESS_DB
from orchestrator.report.figures.canvas import (
    MARKERS,
    Drawn,
    Theme,
    arms,
    bound_key,
    canvas,
    legend,
    mark_control,
    mark_point,
    paper,
    plain_axes,
    rendered,
)


def utility_figure(lines: Sequence[Line], theme: Theme) -> Drawn:
    """Accuracy against mean PSNR, with intervals of both; for lines that have both."""
    figure, axes = canvas(3.9, theme)
    cells = list(dict.fromkeys(line.cell for line in lines))
    attackers = list(dict.fromkeys(line.attacker for line in lines))
    keys: list[tuple[Line2D, str]] = []
    shown = [(line, line.utility) for line in lines if line.utility and line.psnr.measured]
    for line, utility in shown:
        colour = theme.colours[cells.index(line.cell) % len(theme.colours)]
        marker = MARKERS[attackers.index(line.attacker) % len(MARKERS)]
        axes.errorbar(
            line.psnr.mean,
            100 * utility.accuracy.mean,
            xerr=arms(line.psnr, 1.0),
            yerr=arms(utility.accuracy, 100.0),
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
    legend(figure, keys, theme, columns=2)
    return rendered(figure)


def tradeoff_figure(compared: Sequence[Compared], theme: Theme) -> Drawn:
    """Privacy and utility of many cells: beside each other what every attacker reaches and what accuracy is left.

    One band for each cell. On the left the strongest attacker filled, the others hollow, and the control;
    on the right the accuracy with its interval, and the majority class.
    """
    figure = paper(1.5 + 0.36 * len(compared), theme)
    axes, right = figure.subplots(1, 2, width_ratios=(1.7, 1.0), gridspec_kw={"wspace": 0.08})
    plain_axes(axes, theme)
    plain_axes(right, theme)
    names = attackers(list(compared))
    for place, one in enumerate(compared):
        for number, (name, line) in enumerate(one.lines.items()):
            colour = theme.colours[names.index(name) % len(theme.colours)]
            y = place + 0.26 * (number - (len(one.lines) - 1) / 2.0)
            face = colour if line is one.strongest else theme.paper
            mark_point(axes, line.psnr, y, marker=_marker(names, name), colour=colour, face=face)
        line, utility = one.strongest, one.strongest.utility
        mark_control(axes, line.psnr_control, place, theme.control, "-")
        mark_control(axes, line.means["psnr_bound"], place, theme.ink, "-")
        if utility is not None:
            face = theme.paper if utility.diverged else theme.ink
            mark_point(right, utility.accuracy, place, scale=100.0, marker="D", colour=theme.ink, face=face)
            mark_control(right, 100 * utility.majority, place, theme.control, ":")
    for panel in (axes, right):
        panel.set_ylim(len(compared) - 0.5, -0.5)
        panel.grid(axis="x", color=theme.grid, linewidth=0.7)
    axes.axvline(SUCCESS_DB, color=theme.ink, linewidth=1, linestyle=(0, (5, 3)), zorder=1)
    axes.set_yticks(range(len(compared)), [one.cell for one in compared], parse_math=False)
    right.set_yticks(range(len(compared)), [""] * len(compared))
    axes.set_xlabel("mean PSNR (dB): left leaks less", color=theme.muted)
    right.set_xlabel("accuracy (%)", color=theme.muted)
    bound = any(not math.isnan(one.strongest.means["psnr_bound"]) for one in compared)
    legend(figure, _tradeoff_keys(names, theme, bound=bound), theme, columns=3)
    return rendered(figure)


def _tradeoff_keys(names: Sequence[str], theme: Theme, *, bound: bool) -> list[tuple[Line2D, str]]:
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
        *([bound_key(theme)] if bound else []),
        (Line2D([], [], color=theme.ink, linewidth=1, linestyle=(0, (5, 3))), f"{SUCCESS_DB:.0f} dB"),
        (Line2D([], [], color=theme.ink, marker="D", linestyle="", markersize=4.5), "accuracy"),
        (Line2D([], [], color=theme.control, linewidth=2, linestyle=":"), "majority class"),
    ]


def _marker(names: Sequence[str], name: str) -> str:
    return MARKERS[names.index(name) % len(MARKERS)]
