"""Figures of tuning and training: every suggestion and the best so far, and accuracy after each round."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from orchestrator.report.figures.canvas import (
    DASHES,
    Drawn,
    Theme,
    canvas,
    legend,
    rendered,
)


def history_figure(studies: pd.DataFrame, cells: Sequence[str], theme: Theme) -> Drawn:
    """Tuning PSNR of every suggestion and the best so far, by study.

    Suggestions that failed (x) or were pruned (v) stand on the axis.
    `cells` gives each cell the colour that it has in the other figures.
    """
    names = sorted(dict.fromkeys(studies["study"]), key=lambda name: cells.index(name.partition("/")[0]))
    # The legend has a line for two studies, and must leave room for the curves.
    figure, axes = canvas(3.0 + 0.2 * math.ceil(len(names) / 2), theme)
    attackers = list(dict.fromkeys(name.partition("/")[2] for name in names))
    keys = []
    for name in names:
        cell, _, attacker = name.partition("/")
        colour = theme.colours[cells.index(cell) % len(theme.colours)]
        dash = DASHES[attackers.index(attacker) % len(DASHES)]
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
    legend(figure, keys, theme, columns=2)
    return rendered(figure)


def learning_figure(
    trainings: Mapping[str, Sequence[Sequence[float]]], majority: float, theme: Theme
) -> Drawn:
    """Accuracy after each round of every cell's trainings, their mean as a line.

    `trainings` has for each cell the accuracies (0 to 1) after each round of each of its trainings.
    """
    figure, axes = canvas(3.0 + 0.2 * math.ceil(len(trainings) / 2), theme)
    keys: list[tuple[Line2D, str]] = []
    for i, (cell, runs) in enumerate(trainings.items()):
        colour, dash = theme.colours[i % len(theme.colours)], DASHES[i // len(theme.colours) % len(DASHES)]
        table = 100 * pd.DataFrame(list(runs)).T
        rounds = range(1, len(table) + 1)
        if len(table.columns) > 1:
            axes.plot(rounds, table, color=colour, linewidth=0.7, alpha=0.4)
        axes.plot(rounds, table.mean(axis=1), color=colour, linestyle=dash, marker=".", linewidth=1.6)
        keys.append((Line2D([], [], color=colour, linestyle=dash), cell))
    axes.axhline(100 * majority, color=theme.control, linewidth=1.2, zorder=1)
    keys.append((Line2D([], [], color=theme.control), "majority class"))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("rounds trained", color=theme.muted)
    axes.set_ylabel("accuracy (%)", color=theme.muted)
    axes.grid(color=theme.grid, linewidth=0.7)
    legend(figure, keys, theme, columns=2)
    return rendered(figure)
