"""Thresholds: cells along a defense's strength, more of them where an attack stops working, and where that is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from orchestrator.analysis.crossing import Crossing, Ends, crossing
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

    Only victims that every strength has figures of are in it; `images` is how many test images those have.
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
        measured = {
            "gain": np.stack([(f["psnr"] - f["psnr_control"]).to_numpy(float) for f in frames], 1),
            "success": np.stack([f["success"].to_numpy(float) for f in frames], 1),
        }
        found.append(
            Curve(
                attacker=who,
                values=tuple(names[name] for name in there),
                measured=measured,
                images=min(int(frame["images"].sum()) for frame in frames),
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


def critical_strengths(threshold: ThresholdConfig, found: Iterable[Curve]) -> pd.DataFrame:
    """One line for each attacker and criterion: `critical`, its 95% interval `weaker` to `stronger`, its `side`.

    `side` is `before` where the weakest strength already suffices (`critical` is an upper bound), `after` where the
    strongest does not (a lower bound), `refused` where the images are too few to see the level. `bracket_weaker` and
    `bracket_stronger` are the measured strengths that `critical` lies between; an end of the interval or of the bracket
    that lies outside of all strengths is NaN. `resolved` says whether no gap between strengths widens the interval more
    than the choice of victims does. `accuracy` is that at the critical strength, interpolated.
    """
    return pd.DataFrame(
        _line(threshold, curve, criterion)
        for curve in found
        for criterion in curve.criteria()
        if len(curve.values) >= 2 and len(curve.measured[criterion.figure])
    )


def _line(threshold: ThresholdConfig, curve: Curve, criterion: Criterion) -> dict[str, object]:
    strength = threshold.strength
    at = curve.crosses(criterion, strength)
    nowhere = Ends(weaker=math.nan, stronger=math.nan)
    # That none of these images is recovered says nothing of others, so it has no interval.
    interval = at.interval if at is not None and criterion != NONE else nowhere
    bracket = at.bracket if at is not None else nowhere
    return {
        "threshold": threshold.name,
        "strength": strength.path,
        "attacker": curve.attacker,
        "criterion": criterion.name,
        "level": criterion.level,
        "side": at.side if at is not None else "refused",
        "critical": strength.value(at.position) if at is not None else math.nan,
        "weaker": _value(strength, interval.weaker),
        "stronger": _value(strength, interval.stronger),
        "victims": len(curve.measured[criterion.figure]),
        "strengths": len(curve.values),
        "accuracy": float(np.interp(at.position, curve.positions(strength), curve.accuracy))
        if at is not None
        else math.nan,
        "bracket_weaker": _value(strength, bracket.weaker),
        "bracket_stronger": _value(strength, bracket.stronger),
        "resolved": at is not None and at.side == "inside" and not between(strength, curve, at),
        "images": curve.images,
    }


def _value(strength: Strength, position: float) -> float:
    return strength.value(position) if math.isfinite(position) else math.nan


def strengths_of(threshold: ThresholdConfig, cells: Iterable[CellConfig]) -> list[float]:
    """The strengths of a threshold that are among `cells`."""
    values = (threshold_value(threshold, cell) for cell in cells)
    return [value for value in values if value is not None]


def measured_curves(
    config: SweepConfig, folder: Path, table: pd.DataFrame
) -> list[tuple[ThresholdConfig, list[Curve]]]:
    """The curves of every threshold of a sweep over its cells with results; `table` is the folder's summary."""
    if not config.thresholds:
        return []
    victims = tested_victims(folder)
    reached = table[table["accuracy"].notna()].drop_duplicates("cell")
    accuracies = dict(zip(reached["cell"], reached["accuracy"], strict=True))
    return [
        (threshold, curves(threshold, strengths_of(threshold, config.cells), victims, accuracies))
        for threshold in config.thresholds
    ]


def next_cells(config: SweepConfig, folder: Path, table: pd.DataFrame, step: int) -> list[CellConfig]:
    """The cells to add after `step` refinements, in the order of the thresholds; none where all lines are resolved."""
    new: list[CellConfig] = []
    for threshold, found in measured_curves(config, folder, table):
        if step < threshold.refine:
            new += threshold_cells(threshold, refinements(threshold, found))
    return new


def critical_table(folder: Path, table: pd.DataFrame) -> pd.DataFrame:
    """`critical_strengths` of every threshold of the sweep in a results folder; empty where it has none."""
    config = claimed(folder)
    if config is None:
        return pd.DataFrame()
    found = [critical_strengths(*pair) for pair in measured_curves(config, folder, table)]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def write_critical(folder: Path, critical: pd.DataFrame) -> None:
    """The table as `thresholds.parquet`; nothing where it is empty."""
    if len(critical):
        write_atomically(folder / "thresholds.parquet", critical.to_parquet(index=False))
