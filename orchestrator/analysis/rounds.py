"""Quality against the round whose weights are attacked: the cells of a sweep that differ in it."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd

from orchestrator.io.identity import canonical


def by_round(table: pd.DataFrame) -> pd.DataFrame:
    """The summary's lines that form series over rounds, ordered by round; column `series` names each one's.

    A series is one attacker against cells whose defense and declared differences are the same but for
    `capture.round`. The table is empty where no cells differ in their round, or nothing was measured there.
    """
    measured = table[table["psnr"].notna()]
    measured = measured.assign(others=measured["differs"].map(_other_differences))
    found = [
        group.sort_values("round", kind="stable").assign(series=_name(group.iloc[0]))
        for _, group in measured.groupby(["attacker", "defense_params", "others"], sort=False)
        if group["round"].nunique() > 1
    ]
    return pd.concat(found, ignore_index=True) if found else measured.head(0).assign(series="")


def _other_differences(differs: str) -> str:
    own = json.loads(differs)
    return canonical({path: value for path, value in own.items() if path != "capture.round"})


def _name(line: pd.Series[Any]) -> str:
    against = "" if line["dp_against"] == "server" else " against the public"
    epsilon = (
        "" if pd.isna(line["epsilon"]) else f" (epsilon {line['epsilon']:g}, {line['adjacency']}{against})"
    )
    others = "" if line["others"] == "{}" else f" {line['others']}"
    return f"{line['defense']}{epsilon}{others} / {line['attacker']}"
