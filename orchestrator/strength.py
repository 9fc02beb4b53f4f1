"""Thresholds: cells along a defense's strength, more of them where an attack stops working, and where that is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fl_core.errors import InputError
from orchestrator.analysis import SUCCESS_DB
from orchestrator.config import CellConfig, Json, ThresholdConfig
from orchestrator.crossing import Crossing, bracket, crossing
from orchestrator.parse import build, put, to_plain
from orchestrator.scale import Strength

MARGIN_DB = 1.0
"""An attack has stopped working where its mean gain over the mean public image is at most this, in dB."""
SUCCESSES = 0.05
"""A defense has begun to work where at most this share of images is recovered (PSNR >= 20 dB)."""
CRITERIA = ("gain", "success")


def threshold_cell(threshold: ThresholdConfig, value: float) -> CellConfig:
    """The cell of one strength; raises `InputError` where the path leads nowhere or the value is refused."""
    where, path = f"thresholds.{threshold.name}", threshold.strength.path
    number: Json = int(value) if threshold.strength.integer else value
    name = threshold.cell_name(value)
    tree = to_plain(CellConfig(name=name, defense=threshold.defense, differs=threshold.differs))
    first, _, rest = path.partition(".")
    if first != "defense":
        tree["differs"] = {**tree["differs"], path: number}
        return build(CellConfig, tree, where=where)
    index, _, field = rest.partition(".")
    known = index.isdigit() and int(index) < len(threshold.defense)
    if not known or field not in tree["defense"][int(index)]:
        raise InputError(
            f"{where}.strength.path = {path!r}: must lead to a number of one of the {len(threshold.defense)} "
            "defenses, such as defense.0.sigma."
        )
    put(tree, path, number, where=where)
    return build(CellConfig, tree, where=where)


def threshold_cells(threshold: ThresholdConfig, values: Iterable[float]) -> list[CellConfig]:
    """The cells of several strengths, weakest first."""
    return [threshold_cell(threshold, value) for value in sorted(values, key=threshold.strength.position)]


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


def with_success(rows: pd.DataFrame) -> pd.Series[float]:
    """Each victim's share of images that were recovered, by victim."""
    reached = (rows["psnr"].fillna(-np.inf) >= SUCCESS_DB).astype(float)
    share: pd.Series[float] = reached.groupby(rows["victim"]).mean()
    return share


def _ends(strength: Strength, at: Crossing) -> dict[str, float]:
    ends = [strength.value(p) if math.isfinite(p) else math.nan for p in (at.low, at.high)]
    return {"weaker": ends[0], "stronger": ends[1]}
