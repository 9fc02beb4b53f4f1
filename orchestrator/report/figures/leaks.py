"""Figures of what comes back: every test victim beside the controls, and quality against the attacked round."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from orchestrator.analysis.lines import Line
from orchestrator.analysis.rounds import Series
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
    mark_interval,
    rendered,
)

DOTS = 400
"""Dots up to which an SVG file has a shape for each; more are one picture in it, which stays small."""

CLOSE = 12
"""Lines up to which bands have room to breathe; more of them stand closer, so that a figure fits a screen."""


def psnr_figure(lines: Sequence[Line], victims: Mapping[str, pd.DataFrame], theme: Theme) -> Drawn:
    """PSNR of every test victim, with mean and interval, beside the controls; one band for each line.

    `victims` has the figures of each line's test victims, by its name.
    """
    figure, axes = canvas(1.25 + (0.5 if len(lines) <= CLOSE else 0.26) * len(lines), theme)
    cells = list(dict.fromkeys(line.cell for line in lines))
    many = sum(len(victims[line.name]) for line in lines) > DOTS
    for i, line in enumerate(lines):
        values = victims[line.name]
        colour = theme.colours[cells.index(line.cell) % len(theme.colours)]
        spread = np.linspace(-0.16, 0.16, len(values)) if len(values) > 1 else np.zeros(len(values))
        dots = axes.scatter(
            values["psnr"], i + spread, s=20, color=colour, alpha=0.55, linewidths=0, zorder=3
        )
        dots.set_rasterized(many)
        mark_interval(axes, line.psnr, i, theme)
        mark_control(axes, values["psnr_control"].mean(), i, theme.control, "-")
        mark_control(axes, values["psnr_prior"].mean(), i, theme.muted, ":")
        mark_control(axes, line.means["psnr_bound"], i, theme.ink, "-")
    axes.axvline(SUCCESS_DB, color=theme.ink, linewidth=1, linestyle=(0, (5, 3)), zorder=1)
    names = [line.name for line in lines]
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel("PSNR (dB), one dot per test victim", color=theme.muted)
    axes.grid(axis="x", color=theme.grid, linewidth=0.7)
    noise = any(victims[line.name]["psnr_prior"].notna().any() for line in lines)
    bound = any(not math.isnan(line.means["psnr_bound"]) for line in lines)
    legend(figure, _psnr_keys(theme, noise=noise, bound=bound), theme, columns=2)
    return rendered(figure)


def round_figure(series: Sequence[Series], theme: Theme) -> Drawn:
    """Mean PSNR with its interval against the attacked round, and the accuracy of those weights on a second axis.

    `series` is what `by_round` gives.
    """
    figure, axes = canvas(3.9, theme)
    right = axes.twinx()
    right.tick_params(colors=theme.control, labelsize=9, length=0)
    right.spines[:].set_visible(False)
    keys: list[tuple[Line2D, str]] = []
    drawn: list[list[tuple[int, float]]] = []
    for i, each in enumerate(series):
        colour, marker = theme.colours[i % len(theme.colours)], MARKERS[i % len(MARKERS)]
        rounds = [line.round for line in each.lines]
        axes.plot(rounds, [line.psnr.mean for line in each.lines], color=colour, linewidth=1.6)
        for line in each.lines:
            sides = arms(line.psnr, 1.0)
            axes.errorbar(line.round, line.psnr.mean, yerr=sides, fmt=marker, color=colour, capsize=3)
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
    legend(figure, keys, theme, columns=2)
    return rendered(figure)


def _psnr_keys(theme: Theme, *, noise: bool, bound: bool) -> list[tuple[Line2D, str]]:
    """What stands in the legend; `noise` says whether the attacks were run on noise too, `bound` whether a proof is."""
    on_noise = (Line2D([], [], color=theme.muted, linewidth=2, linestyle=":"), "same attack on noise")
    return [
        (Line2D([], [], color=theme.muted, marker="o", linestyle="", markersize=4.5), "test victim"),
        (Line2D([], [], color=theme.ink, marker="D", markersize=4.5), "mean, 95% interval"),
        (Line2D([], [], color=theme.control, linewidth=2), "control, without a signal"),
        *([on_noise] if noise else []),
        *([bound_key(theme)] if bound else []),
        (Line2D([], [], color=theme.ink, linewidth=1, linestyle=(0, (5, 3))), f"{SUCCESS_DB:.0f} dB"),
    ]
