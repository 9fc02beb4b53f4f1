"""What figures are drawn on: themes, axes, marks with intervals, and a figure as PNG and SVG."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from orchestrator.analysis.intervals import Interval

MARKERS = "oDs^vP*X"
Dash = Literal["-", "--", ":", "-."]

DASHES: tuple[Dash, ...] = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class Drawn:
    """A figure as the bytes of a PNG and of an SVG file."""

    png: bytes
    svg: bytes


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


def canvas(height: float, theme: Theme) -> tuple[Figure, Axes]:
    """A figure with one set of axes of this height in inches."""
    figure = paper(height, theme)
    axes = figure.add_subplot()
    plain_axes(axes, theme)
    return figure, axes


def paper(height: float, theme: Theme) -> Figure:
    """An empty figure in the theme, of this height in inches."""
    return Figure(figsize=(5.2, height), dpi=200, facecolor=theme.paper, layout="constrained")


def plain_axes(axes: Axes, theme: Theme) -> None:
    """Axes in the theme, with the lowest line alone."""
    axes.set_facecolor(theme.paper)
    axes.tick_params(colors=theme.ink, labelsize=9, length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(theme.grid)
    axes.set_axisbelow(True)


def mark_point(
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
        xerr=arms(found, scale),
        fmt=marker,
        color=colour,
        markerfacecolor=face,
        markersize=5,
        elinewidth=1.1,
        capsize=2,
    )


def mark_interval(axes: Axes, found: Interval, y: float, theme: Theme) -> None:
    """A mean with its interval at height `y`."""
    axes.errorbar(
        found.mean,
        y,
        xerr=arms(found, 1.0),
        fmt="D",
        color=theme.ink,
        markersize=4.5,
        elinewidth=1.6,
        capsize=3,
        zorder=4,
    )


def arms(found: Interval, scale: float) -> list[list[float]] | None:
    """The lengths of an interval's two sides; None where it has none, which leaves the bare marker."""
    if not np.isfinite([found.low, found.high]).all():
        return None
    return [[scale * max(0.0, found.mean - found.low)], [scale * max(0.0, found.high - found.mean)]]


def mark_control(axes: Axes, x: float, y: int, colour: str, style: str) -> None:
    """An upright line at `x` in the band of height `y`; none where `x` is not known."""
    if np.isfinite(x):
        axes.plot([x, x], [y - 0.34, y + 0.34], color=colour, linewidth=2, linestyle=style, zorder=2)


def bound_key(theme: Theme) -> tuple[Line2D, str]:
    """What the legend says of a proven bound."""
    return Line2D([], [], color=theme.ink, linewidth=2), "bound on any attacker (PSNR of the MSE)"


def legend(figure: Figure, keys: Iterable[tuple[Line2D, str]], theme: Theme, *, columns: int) -> None:
    """The legend below the axes."""
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


def rendered(figure: Figure) -> Drawn:
    """The figure in both formats; the same figure gives the same bytes."""
    png, svg = io.BytesIO(), io.BytesIO()
    figure.savefig(png, format="png", metadata={"Software": None})
    figure.set_layout_engine("none")  # It has been laid out; a second time takes as long as drawing.
    with mpl.rc_context({"svg.hashsalt": "gradsweep"}):
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    return Drawn(png.getvalue(), svg.getvalue())
