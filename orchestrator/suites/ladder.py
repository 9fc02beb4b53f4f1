"""A ladder of cells, each of which adds something to the one before: what each rung costs the attacker."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd

from orchestrator.analysis.intervals import NOTHING, Interval, mean_interval
from orchestrator.analysis.lines import Line
from orchestrator.report.reader import Results


@dataclass(frozen=True)
class Rung:
    """One cell of a ladder under one attacker.

    `lost` is by how many dB the preselected images fall from the rung before, over the `shared` images that both rungs
    have. Where that is less than half of the rung that has fewer, as by chance in another round, it is the difference
    of the means, without an interval, and `shared` is 0.
    """

    line: Line
    lost: Interval
    shared: int


def rungs(results: Results) -> tuple[Rung, ...]:
    """The rungs of each attacker, in the order of the sweep file."""
    found: list[Rung] = []
    for attacker in dict.fromkeys(line.attacker for line in results.lines):
        lines = [line for line in results.lines if line.attacker == attacker]
        values = [_preselected(results.tested(line.cell, line.attacker)) for line in lines]
        found += [Rung(lines[0], NOTHING, 0)]
        found += [
            Rung(line, *_lost(before, after))
            for line, (before, after) in zip(lines[1:], pairwise(values), strict=True)
        ]
    return tuple(found)


def _preselected(rows: pd.DataFrame) -> pd.Series[float]:
    """The PSNR in dB of the images that were chosen before any attack, by seed and file.

    A mirrored image is the same one. An image for which nothing was reconstructed is not among them.
    """
    chosen = rows[(rows["status"] == "ok") & rows["preselected"].astype("boolean").fillna(False)]
    chosen = chosen[np.isfinite(chosen["psnr"].astype("float64"))]
    files = chosen["image_id"].str.removesuffix(":flip")
    values: pd.Series[float] = pd.Series(
        chosen["psnr"].to_numpy(dtype=np.float64),
        index=pd.MultiIndex.from_arrays([chosen["sweep_seed"], files]),
    )
    return values


def _lost(before: pd.Series[float], after: pd.Series[float]) -> tuple[Interval, int]:
    """How much less the images after have than those before, and how many images that was told from."""
    both = before.sub(after).dropna()
    if 2 * len(both) > min(len(before), len(after)):
        seeds = np.asarray(both.index.get_level_values(0), dtype=np.int64)
        return mean_interval(np.asarray(both, dtype=np.float64), clusters=seeds), len(both)
    if before.empty or after.empty:
        return NOTHING, 0
    return Interval(float(before.mean() - after.mean()), np.nan, np.nan), 0
