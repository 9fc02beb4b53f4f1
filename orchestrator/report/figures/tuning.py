"""Figures of tuning, attacks and training: suggestions and the best so far, how losses fell, accuracy by round."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from orchestrator.analysis.lines import Winner
from orchestrator.report.figures.canvas import (
    DASHES,
    Dash,
    Drawn,
    Theme,
    canvas,
    legend,
    rendered,
)

FloatArray = npt.NDArray[np.float64]


def history_figure(studies: pd.DataFrame, cells: Sequence[str], theme: Theme) -> Drawn:
    """Tuning PSNR of every suggestion and the best so far, by study.

    Suggestions that failed (x) or were pruned (v) stand on the axis.
    `cells` gives each cell the colour that it has in the other figures.
    """
    names = _by_cell(studies, cells)
    # The legend has a line for two studies, and must leave room for the curves.
    figure, axes = canvas(3.0 + 0.2 * math.ceil(len(names) / 2), theme)
    keys = []
    for name, colour, dash in _styles(names, cells, theme):
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


def front_figure(told: pd.DataFrame, won: Mapping[str, Winner], cells: Sequence[str], theme: Theme) -> Drawn:
    """Tuning PSNR against work of every finished suggestion, each study's front as a line and its winner as a ring.

    `told` has the columns of `studies.parquet`; `won` is by study. `cells` gives each cell its colour.
    """
    names = _by_cell(told, cells)
    figure, axes = canvas(3.0 + 0.2 * math.ceil(len(names) / 2), theme)
    keys = []
    for name, colour, dash in _styles(names, cells, theme):
        mine = told[told["study"] == name]
        axes.scatter(mine["work"], mine["value"], s=14, color=colour, alpha=0.45, linewidths=0, zorder=2)
        if name in won:
            best = won[name]
            works, values = [each.work for each in best.front], [each.psnr for each in best.front]
            axes.step(works, values, where="post", color=colour, linestyle=dash, linewidth=1.6)
            axes.scatter([best.work], [best.value], s=70, facecolors="none", edgecolors=colour, zorder=3)
        keys.append((Line2D([], [], color=colour, linestyle=dash), name.replace("/", " / ")))
    # Linear next to 0: an attack that solves equations differentiates nothing.
    axes.set_xscale("symlog", linthresh=1.0)
    axes.set_xlabel("work (images differentiated twice)", color=theme.muted)
    axes.set_ylabel("PSNR on tuning victims (dB)", color=theme.muted)
    axes.grid(color=theme.grid, linewidth=0.7)
    legend(figure, keys, theme, columns=2)
    return rendered(figure)


Trace = Sequence[tuple[float, float]]
"""Iterations of one attack, and the loss of what it would answer with at each."""


def convergence_figure(
    traces: Mapping[tuple[str, str], Sequence[Trace]], cells: Sequence[str], theme: Theme
) -> Drawn:
    """How the loss of each cell's attackers fell: the median over test victims, and the band of the middle half.

    `traces` has one for each test victim, by cell and attacker; `cells` gives each cell its colour.
    """
    figure, axes = canvas(3.0 + 0.2 * math.ceil(len(traces) / 2), theme)
    attackers = list(dict.fromkeys(attacker for _, attacker in traces))
    keys, lowest = [], math.inf
    for (cell, attacker), found in traces.items():
        colour = theme.colours[cells.index(cell) % len(theme.colours)]
        dash = DASHES[attackers.index(attacker) % len(DASHES)]
        iterations, quartiles = middle_half(found)
        lowest = min(lowest, float(quartiles.min()))
        axes.fill_between(iterations, quartiles[0], quartiles[2], color=colour, alpha=0.15, linewidth=0)
        axes.plot(iterations, quartiles[1], color=colour, linestyle=dash, linewidth=1.6)
        keys.append((Line2D([], [], color=colour, linestyle=dash), f"{cell} / {attacker}"))
    if lowest > 0:
        axes.set_yscale("log")
    axes.set_xlabel("iteration", color=theme.muted)
    axes.set_ylabel("loss of the answer so far", color=theme.muted)
    axes.grid(color=theme.grid, linewidth=0.7)
    legend(figure, keys, theme, columns=2)
    return rendered(figure)


def middle_half(traces: Sequence[Trace]) -> tuple[FloatArray, FloatArray]:
    """Iterations (n,), and the quartiles over traces (3, n) of the loss there: a quarter, the median, three quarters.

    Between two points of a trace the loss is on a line; a trace that has ended keeps its last one.
    """
    iterations = np.unique([point[0] for trace in traces for point in trace]).astype(float)
    points = [np.asarray(trace, dtype=float) for trace in traces]
    losses = [np.interp(iterations, each[:, 0], each[:, 1]) for each in points]
    return iterations, np.quantile(losses, [0.25, 0.5, 0.75], axis=0)


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


def _by_cell(studies: pd.DataFrame, cells: Sequence[str]) -> list[str]:
    """The names of the studies, those of one cell together, in the order of `cells`."""
    return sorted(dict.fromkeys(studies["study"]), key=lambda name: cells.index(name.partition("/")[0]))


def _styles(names: Sequence[str], cells: Sequence[str], theme: Theme) -> Iterator[tuple[str, str, Dash]]:
    """Each study with its cell's colour and its attacker's dash."""
    attackers = list(dict.fromkeys(name.partition("/")[2] for name in names))
    for name in names:
        cell, _, attacker = name.partition("/")
        colour = theme.colours[cells.index(cell) % len(theme.colours)]
        yield name, colour, DASHES[attackers.index(attacker) % len(DASHES)]
