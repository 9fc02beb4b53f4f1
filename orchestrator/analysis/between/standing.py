"""Where each cell stands among those that compare: what its strongest attacker gets, its rank, and the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from orchestrator.analysis.between.differences import least_p, paired, ranks
from orchestrator.analysis.comparison import strongest_by_cell
from orchestrator.analysis.intervals import NOTHING, Interval
from orchestrator.analysis.lines import Line
from orchestrator.analysis.summary import records
from orchestrator.io.identity import canonical

AIMS: Mapping[str, Literal["least", "most"]] = {"leak": "least", "accuracy": "most", "bytes_up": "least"}
"""What a front is about, and which way is better: gain of the strongest attacker, accuracy, bytes a client sends."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One cell among those that compare with it, by the gain of its strongest attacker (`line`).

    `rank` counts from 1, the least gain, with the ends of its 95% interval; `alike` is how many other cells it is not
    told from. `against` is the undefended cell minus this one, paired by victim, with p after Holm's correction over
    all cells of the group. `front` says whether no other cell is at least as good in everything that `AIMS` names and
    better in something; None where a figure is missing.
    """

    line: Line
    rank: int
    rank_low: int
    rank_high: int
    alike: int
    against: Interval
    p_holm: float
    front: bool | None


@dataclass(frozen=True, kw_only=True)
class Group:
    """Cells with the same data, weights and rounds, the least leak first.

    `own` are the settings that they share and others lack; `undefended` is the cell without a defense, if there is one;
    `least_p` the least corrected p that so few victims or seeds can give in so many comparisons.
    """

    own: Mapping[str, object]
    undefended: str | None
    standings: tuple[Standing, ...]
    victims: int
    seeds: int
    least_p: float

    @property
    def defended(self) -> tuple[Standing, ...]:
        """All but the cell without a defense."""
        return tuple(each for each in self.standings if each.line.defense != "none")


def standings(lines: Sequence[Line], victims: Mapping[tuple[str, str], pd.DataFrame]) -> tuple[Group, ...]:
    """The groups of cells that compare, in the order of `lines`; cells in which nothing was measured are left out.

    `victims` is what `tested_victims` gives: figures by victim for each cell and attacker.
    """
    alike: dict[str, list[Line]] = {}
    for line in strongest_by_cell(lines).values():
        if line.gain.measured:
            alike.setdefault(canonical(dict(line.differs_beside_threat)), []).append(line)
    return tuple(_group(found, victims) for found in alike.values())


def front(figures: pd.DataFrame, aims: Mapping[str, Literal["least", "most"]] = AIMS) -> pd.Series[bool]:
    """Which rows are on the Pareto front of the columns that `aims` names; a row that lacks a figure is on none.

    A row is on the front when no other is at least as good in every column and better in one; of equal rows both are.
    """
    signed = np.stack([figures[name] * (1 if aim == "least" else -1) for name, aim in aims.items()], axis=1)
    known = np.isfinite(signed).all(axis=1)
    beaten = np.array(
        [
            bool((known & (signed <= row).all(axis=1) & (signed < row).any(axis=1)).any()) if there else True
            for row, there in zip(signed, known, strict=True)
        ],
        dtype=bool,
    )
    return pd.Series(~beaten & known, index=figures.index)


def trade_off(lines: Sequence[Line]) -> pd.DataFrame:
    """What `front` takes: leak (gain, dB), accuracy and bytes of each line's cell, by cell."""
    return pd.DataFrame(
        {
            "leak": [line.gain.mean for line in lines],
            "accuracy": [line.utility.accuracy.mean if line.utility else math.nan for line in lines],
            "bytes_up": [line.means["bytes_up"] for line in lines],
        },
        index=[line.cell for line in lines],
    )


def _group(lines: Sequence[Line], victims: Mapping[tuple[str, str], pd.DataFrame]) -> Group:
    by_cell = {line.cell: line for line in lines}
    gains = pd.DataFrame({cell: _gain(victims[cell, line.attacker]) for cell, line in by_cell.items()})
    table = records(ranks(gains))
    plain = next((line.cell for line in lines if line.defense == "none"), None)
    pairs = [(plain, cell) for cell in by_cell if cell != plain] if plain is not None else []
    apart = {str(found["other"]): found for found in records(paired(gains, pairs))}
    aims = trade_off(lines)
    whole, on_front = aims.notna().all(axis=1), front(aims)
    found = []
    for place in table:
        name = str(place["name"])
        between = apart.get(name)
        found.append(
            Standing(
                line=by_cell[name],
                rank=place["rank"],
                rank_low=place["rank_low"],
                rank_high=place["rank_high"],
                alike=place["alike"],
                against=Interval(between["difference"], between["low"], between["high"])
                if between
                else NOTHING,
                p_holm=between["p_holm"] if between else math.nan,
                front=bool(on_front[name]) if whole[name] else None,
            )
        )
    seeds = gains.index.get_level_values("sweep_seed").nunique()
    return Group(
        own=dict(lines[0].differs_beside_threat),
        undefended=plain,
        standings=tuple(found),
        victims=len(gains),
        seeds=seeds,
        least_p=least_p(len(gains) if seeds == 1 else seeds, max(1, len(lines) - 1)),
    )


def _gain(victims: pd.DataFrame) -> pd.Series[float]:
    gain: pd.Series[float] = victims["psnr"] - victims["psnr_control"]
    return gain
