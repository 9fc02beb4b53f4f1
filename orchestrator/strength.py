"""Thresholds: cells along a defense's strength, more of them where an attack stops working, and where that is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from orchestrator.analysis import tested_victims
from orchestrator.config import CellConfig, SweepConfig, ThresholdConfig
from orchestrator.crossing import Crossing, bracket, crossing
from orchestrator.files import read_json, write_atomically
from orchestrator.folder import CLAIM, FORMAT
from orchestrator.parse import build, threshold_cells, threshold_value
from orchestrator.scale import Strength

MARGIN_DB = 1.0
"""An attack has stopped working where its mean gain over the mean public image is at most this, in dB."""
SUCCESSES = 0.05
"""A defense has begun to work where at most this share of images is recovered (PSNR >= 20 dB)."""


@dataclass(frozen=True)
class Curve:
    """One attacker's figures over the strengths of a threshold: values, weakest first, and (V, K) for each criterion.

    Only victims that every strength has figures of are in it.
    """

    attacker: str
    values: tuple[float, ...]
    measured: Mapping[str, np.ndarray]
    accuracy: tuple[float, ...]


def levels() -> dict[str, float]:
    """The level of each criterion, from which down a defense works."""
    return {"gain": MARGIN_DB, "success": SUCCESSES}


def curves(
    threshold: ThresholdConfig,
    values: Iterable[float],
    victims: Mapping[tuple[str, str], pd.DataFrame],
    accuracies: Mapping[str, float],
) -> list[Curve]:
    """The curves over those of `values` whose cells have results.

    `victims` has for each cell and attacker one line a test victim with `psnr`, `psnr_mean_image` and `success`, the
    share of its images from 20 dB on; `accuracies` the accuracy by cell, where it was measured.
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
        measured = {
            "gain": np.stack(
                [(f["psnr"] - f["psnr_mean_image"]).loc[common].to_numpy(float) for f in frames], 1
            ),
            "success": np.stack([f["success"].loc[common].to_numpy(float) for f in frames], 1),
        }
        accuracy = tuple(accuracies.get(name, math.nan) for name in there)
        found.append(Curve(who, tuple(names[name] for name in there), measured, accuracy))
    return found


def refinements(threshold: ThresholdConfig, found: Iterable[Curve]) -> list[float]:
    """New strengths: halfway (on the scale) inside each bracket of each curve and criterion, where there is room."""
    strength, new = threshold.strength, dict[float, None]()
    for curve in found:
        if len(curve.values) < 2 or not len(curve.measured["gain"]):
            continue
        positions = np.array([strength.position(value) for value in curve.values])
        for criterion, level in levels().items():
            ends = bracket(positions, curve.measured[criterion].mean(axis=0), level)
            if ends is None:
                continue
            value = strength.value((ends[0] + ends[1]) / 2.0)
            if value not in curve.values:
                new[value] = None
    return sorted(new, key=strength.position)


def critical_strengths(threshold: ThresholdConfig, found: Iterable[Curve]) -> pd.DataFrame:
    """One line for each attacker and criterion: `critical`, its 95% interval `weaker` to `stronger`, its `side`.

    `side` is `before` where the weakest strength already suffices (`critical` is an upper bound), `after` where the
    strongest does not (a lower bound); an end of the interval that lies outside of all strengths is NaN. `accuracy` is
    that at the critical strength, interpolated between the strengths beside it.
    """
    strength, lines = threshold.strength, []
    for curve in found:
        positions = np.array([strength.position(value) for value in curve.values])
        for criterion, level in levels().items():
            values = curve.measured[criterion]
            if len(positions) < 2 or not len(values):
                continue
            at = crossing(positions, values, level)
            lines.append(
                {
                    "threshold": threshold.name,
                    "strength": strength.path,
                    "attacker": curve.attacker,
                    "criterion": criterion,
                    "level": level,
                    "side": at.side,
                    "critical": strength.value(at.position),
                    **_ends(strength, at),
                    "victims": len(values),
                    "strengths": len(positions),
                    "accuracy": float(np.interp(at.position, positions, curve.accuracy)),
                }
            )
    return pd.DataFrame(lines)


def _ends(strength: Strength, at: Crossing) -> dict[str, float]:
    ends = [strength.value(p) if math.isfinite(p) else math.nan for p in (at.low, at.high)]
    return {"weaker": ends[0], "stronger": ends[1]}


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
    """The cells to add after `step` refinements, in the order of the thresholds; none where all brackets are closed."""
    new: list[CellConfig] = []
    for threshold, found in measured_curves(config, folder, table):
        if step < threshold.refine:
            new += threshold_cells(threshold, refinements(threshold, found))
    return new


def critical_table(folder: Path, table: pd.DataFrame) -> pd.DataFrame:
    """`critical_strengths` of every threshold of the sweep in a results folder; empty where it has none."""
    path = folder / CLAIM
    if not path.is_file():
        return pd.DataFrame()
    config = build(SweepConfig, read_json(path, version=FORMAT)["config"], where=str(path))
    found = [critical_strengths(*pair) for pair in measured_curves(config, folder, table)]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def write_critical(folder: Path, critical: pd.DataFrame) -> None:
    """The table as `thresholds.parquet`; nothing where it is empty."""
    if len(critical):
        write_atomically(folder / "thresholds.parquet", critical.to_parquet(index=False))
