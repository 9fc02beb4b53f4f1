"""Two results folders beside each other: the same cells and attackers, paired where their victims agree."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from fl_core.base.errors import InputError
from orchestrator.analysis.between.differences import holm, paired, unpaired
from orchestrator.analysis.intervals import FEWEST
from orchestrator.analysis.summary import identified_victims

Key = tuple[str, str]


@dataclass(frozen=True)
class Folders:
    """What two folders have in common, and what one has alone.

    `table` has a row for each cell and attacker that both have: `cell`, `attacker`, `paired`, `n` (victims behind the
    difference), `first_n` and `second_n`, `first` and `second` (mean PSNR over all of a folder's victims), `difference`
    of the second to the first with `low` and `high`, `p` and `p_holm`, corrected over the rows.
    """

    table: pd.DataFrame
    first_alone: tuple[Key, ...]
    second_alone: tuple[Key, ...]


def compare_folders(one: Path, other: Path) -> Folders:
    """Compare the test victims of two results folders by PSNR.

    Victims agree where data set, seed, number and images are the same. A row is paired over the victims that agree
    where there are at least `FEWEST` of them or they are all there are; else it is over all victims of both folders,
    unpaired. Raises `InputError` where a folder holds no results or no cell and attacker is in both.
    """
    first, second = identified_victims(one), identified_victims(other)
    common = [key for key in first if key in second]
    if not common:
        here, there = (", ".join(" / ".join(key) for key in found) for found in (first, second))
        raise InputError(
            f"{one} and {other} have no cell and attacker in common: the first has {here}, the second {there}."
        )
    rows = [_row(key, first[key], second[key]) for key in common]
    table = pd.DataFrame(rows)
    return Folders(
        table.assign(p_holm=holm(table["p"].to_numpy(dtype=np.float64))),
        tuple(key for key in first if key not in second),
        tuple(key for key in second if key not in first),
    )


def _row(key: Key, first: pd.DataFrame, second: pd.DataFrame) -> dict[str, object]:
    agreed = first.add_suffix("_first").join(second.add_suffix("_second"), how="inner")
    together = len(agreed) >= FEWEST or len(agreed) == len(first) == len(second) > 0
    if together:
        figures = pd.DataFrame({"1": agreed["psnr_first"], "2": agreed["psnr_second"]})
        found = paired(figures, [("2", "1")]).iloc[0]
    else:
        controls = (float(second["psnr_control"].mean()), float(first["psnr_control"].mean()))
        found = unpaired(second["psnr"], first["psnr"], failed=controls).iloc[0]
    return {
        "cell": key[0],
        "attacker": key[1],
        "paired": together,
        "n": int(found["n"]),
        "first_n": len(first),
        "second_n": len(second),
        "first": float(first["psnr"].mean()),
        "second": float(second["psnr"].mean()),
        **{name: float(found[name]) for name in ("difference", "low", "high", "p")},
    }
