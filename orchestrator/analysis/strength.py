"""Thresholds: cells along a defense's strength, more of them where an attack stops working, and where that is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from orchestrator.analysis.crossing import Crossing, Ends, crossing
from orchestrator.analysis.lines import Line
from orchestrator.analysis.summary import tested_victims
from orchestrator.config.parse import threshold_cells, threshold_value
from orchestrator.config.scale import Strength
from orchestrator.config.sweep import CellConfig, SweepConfig, ThresholdConfig
from orchestrator.io.files import write_atomically
from orchestrator.results.folder import claimed

MARGIN_DB = 1.0
"""An attack has stopped working where its mean gain over the control is at most this, in dB."""
SUCCESSES = 0.05
"""A defense has begun to work where at most this share of images is recovered (PSNR >= 20 dB)."""


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """What counts as a defense that works: a figure whose mean over victims is at most `level`.

    `needs` is how many test images it takes to see that level at all.
    """

    name: str
    figure: Literal["gain", "success"]
    level: float
    needs: int = 1


GAIN = Criterion(name="gain", figure="gain", level=MARGIN_DB)
SUCCESS = Criterion(name="success", figure="success", level=SUCCESSES, needs=math.ceil(1.0 / SUCCESSES))
NONE = Criterion(name="none", figure="success", level=0.0)
"""No image is recovered: what is left to say of successes where there are too few images for a share."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One attacker's figures over the strengths of a threshold: values, weakest first, and (V, K) for each figure.

    Only victims that every strength has figures of are in it; `images` is how many test images those have. Of a sweep
    with several seeds a row of the figures is a seed's mean.
    """

    attacker: str
    values: tuple[float, ...]
    measured: Mapping[str, np.ndarray]
    images: int
    accuracy: tuple[float, ...]

    def criteria(self) -> tuple[Criterion, ...]:
        """The criteria that are looked for; `NONE` beside `SUCCESS` where that cannot be told from 0."""
        return (GAIN, SUCCESS) if self.images >= SUCCESS.needs else (GAIN, SUCCESS, NONE)

    def crosses(self, criterion: Criterion, strength: Strength) -> Crossing | None:
        """Where the curve falls to the criterion's level; None where that cannot be said."""
        values = self.measured[criterion.figure]
        if len(self.values) < 2 or not len(values) or self.images < criterion.needs:
            return None
        return crossing(self.positions(strength), values, criterion.level, shares=criterion == SUCCESS)

    def positions(self, strength: Strength) -> np.ndarray:
        """Where the values lie on the scale."""
        return np.array([strength.position(value) for value in self.values])


def curves(
    threshold: ThresholdConfig,
    values: Iterable[float],
    victims: Mapping[tuple[str, str], pd.DataFrame],
    accuracies: Mapping[str, float],
) -> list[Curve]:
    """The curves over those of `values` whose cells have results.

    `victims` has for each cell and attacker one line a test victim with `psnr`, `psnr_control`, `images` and
    `success`, the share of these from 20 dB on; `accuracies` the accuracy by cell, where it was measured.
    """
    ordered = sorted(values, key=threshold.strength.position)
    names = {threshold.cell_name(value): value for value in ordered}
    found = []
    for who in dict.fromkeys(who for cell, who in victims if cell in names):
        there = [name for name in names if len(victims.get((name, who), ()))]
        if not there:
            continue
        frames = [victims[name, who] for name in there]
        common = sorted(set.intersection(*(set(frame.index) for frame in frames)))
        frames = [frame.loc[common] for frame in frames]
        images = min(int(frame["images"].sum()) for frame in frames)
        index = frames[0].index
        if index.nlevels > 1 and index.get_level_values("sweep_seed").nunique() > 1:
            # Seeds are what is independent: each counts with the mean over its victims.
            frames = [frame.groupby(level="sweep_seed").mean() for frame in frames]
        measured = {
            "gain": np.stack([(f["psnr"] - f["psnr_control"]).to_numpy(float) for f in frames], 1),
            "success": np.stack([f["success"].to_numpy(float) for f in frames], 1),
        }
        found.append(
            Curve(
                attacker=who,
                values=tuple(names[name] for name in there),
                measured=measured,
                images=images,
                accuracy=tuple(accuracies.get(name, math.nan) for name in there),
            )
        )
    return found


def refinements(threshold: ThresholdConfig, found: Iterable[Curve]) -> list[float]:
    """New strengths for every curve and criterion: those of `between`, weakest first."""
    new = dict[float, None]()
    for curve in found:
        for criterion in curve.criteria():
            at = curve.crosses(criterion, threshold.strength)
            if at is not None:
                new |= dict.fromkeys(between(threshold.strength, curve, at))
    return sorted(new, key=threshold.strength.position)


def between(strength: Strength, curve: Curve, at: Crossing) -> list[float]:
    """Strengths halfway (on the scale) inside the gaps that widen the interval of `at` more than the victims do.

    None where a scale of whole numbers has no room, and where `at` lies outside of the measured strengths.
    """
    gaps = at.wide_gaps(curve.positions(strength))
    halves = (strength.value((gap.weaker + gap.stronger) / 2.0) for gap in gaps)
    return [value for value in halves if value not in curve.values]


@dataclass(frozen=True, kw_only=True)
class CriticalLine:
    """Where one attacker's curve over a threshold's strengths falls to a criterion.

    `side` is `before` where the weakest strength already suffices (`critical` is an upper bound), `after` where the
    strongest does not (a lower bound), `refused` where the images are too few to see the level. `interval` is the 95%
    interval of `critical`, `bracket` the measured strengths that it lies between; an end of either that lies outside of
    all strengths is NaN. `resolved` says whether no gap between strengths widens the interval more than the choice of
    victims does. `accuracy` is that at the critical strength, interpolated.
    """

    threshold: str
    strength: str
    attacker: str
    criterion: Criterion
    side: Literal["before", "inside", "after", "refused"]
    critical: float
    interval: Ends
    victims: int
    strengths: int
    accuracy: float
    bracket: Ends
    resolved: bool
    images: int

    @property
    def coarse(self) -> bool:
        """Whether strengths lie too far apart for the victims that there are."""
        return self.side == "inside" and not self.resolved

    def columns(self) -> dict[str, object]:
        """The line as the columns of `thresholds.parquet`."""
        return {
            "threshold": self.threshold,
            "strength": self.strength,
            "attacker": self.attacker,
            "criterion": self.criterion.name,
            "level": self.criterion.level,
            "side": self.side,
            "critical": self.critical,
            "weaker": self.interval.weaker,
            "stronger": self.interval.stronger,
            "victims": self.victims,
            "strengths": self.strengths,
            "accuracy": self.accuracy,
            "bracket_weaker": self.bracket.weaker,
            "bracket_stronger": self.bracket.stronger,
            "resolved": self.resolved,
            "images": self.images,
        }


def critical_strengths(threshold: ThresholdConfig, found: Iterable[Curve]) -> list[CriticalLine]:
    """One line for each attacker and criterion."""
    return [
        _line(threshold, curve, criterion)
        for curve in found
        for criterion in curve.criteria()
        if len(curve.values) >= 2 and len(curve.measured[criterion.figure])
    ]


def critical_frame(lines: Iterable[CriticalLine]) -> pd.DataFrame:
    """The lines as a table."""
    return pd.DataFrame(line.columns() for line in lines)


def _line(threshold: ThresholdConfig, curve: Curve, criterion: Criterion) -> CriticalLine:
    strength = threshold.strength
    at = curve.crosses(criterion, strength)
    nowhere = Ends(weaker=math.nan, stronger=math.nan)
    # That none of these images is recovered says nothing of others, so it has no interval.
    interval = at.interval if at is not None and criterion != NONE else nowhere
    return CriticalLine(
        threshold=threshold.name,
        strength=strength.path,
        attacker=curve.attacker,
        criterion=criterion,
        side=at.side if at is not None else "refused",
        critical=strength.value(at.position) if at is not None else math.nan,
        interval=_values(strength, interval),
        victims=len(curve.measured[criterion.figure]),
        strengths=len(curve.values),
        accuracy=float(np.interp(at.position, curve.positions(strength), curve.accuracy))
        if at is not None
        else math.nan,
        bracket=_values(strength, at.bracket if at is not None else nowhere),
        resolved=at is not None and at.side == "inside" and not between(strength, curve, at),
        images=curve.images,
    )


def _values(strength: Strength, ends: Ends) -> Ends:
    return Ends(weaker=_value(strength, ends.weaker), stronger=_value(strength, ends.stronger))


def _value(strength: Strength, position: float) -> float:
    return strength.value(position) if math.isfinite(position) else math.nan


def strengths_of(threshold: ThresholdConfig, cells: Iterable[CellConfig]) -> list[float]:
    """The strengths of a threshold that are among `cells`."""
    values = (threshold_value(threshold, cell) for cell in cells)
    return [value for value in values if value is not None]


def measured_curves(
    config: SweepConfig, folder: Path, lines: Iterable[Line]
) -> list[tuple[ThresholdConfig, list[Curve]]]:
    """The curves of every threshold of a sweep over its cells with results; `lines` are the folder's summary."""
    if not config.thresholds:
        return []
    victims = tested_victims(folder)
    accuracies = {line.cell: line.utility.accuracy.mean for line in lines if line.utility is not None}
    return [
        (threshold, curves(threshold, strengths_of(threshold, config.cells), victims, accuracies))
        for threshold in config.thresholds
    ]


def next_cells(config: SweepConfig, folder: Path, lines: Sequence[Line], step: int) -> list[CellConfig]:
    """The cells to add after `step` refinements, in the order of the thresholds; none where all lines are resolved."""
    new: list[CellConfig] = []
    for threshold, found in measured_curves(config, folder, lines):
        if step < threshold.refine:
            new += threshold_cells(threshold, refinements(threshold, found))
    return new


def critical_lines(folder: Path, lines: Sequence[Line]) -> list[CriticalLine]:
    """`critical_strengths` of every threshold of the sweep in a results folder with this summary."""
    config = claimed(folder)
    if config is None:
        return []
    return [line for pair in measured_curves(config, folder, lines) for line in critical_strengths(*pair)]


def write_critical(folder: Path, critical: Sequence[CriticalLine]) -> None:
    """The table as `thresholds.parquet`; nothing where it is empty."""
    if critical:
        write_atomically(folder / "thresholds.parquet", critical_frame(critical).to_parquet(index=False))
