"""A results folder as the report reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from orchestrator.analysis.lines import Line, Winner
from orchestrator.analysis.summary import read_studies, read_trials, tested_rows, winners
from orchestrator.capture.datasets import data_line
from orchestrator.config.plain import to_plain
from orchestrator.results.folder import claimed
from orchestrator.results.schema import TRIALS_BASE
from orchestrator.results.store import NoResults


@dataclass(frozen=True)
class Results:
    """A folder with the lines of its summary; the config is empty where `sweep.json` is missing."""

    folder: Path
    lines: Sequence[Line]

    @cached_property
    def rows(self) -> pd.DataFrame:
        """All rows of all trials; raises `NoResults` where there are none and no sweep is noted either."""
        try:
            return read_trials(self.folder)
        except NoResults:
            if not self.config:
                raise
            return pd.DataFrame(TRIALS_BASE.empty_table().to_pandas())

    @cached_property
    def config(self) -> dict[str, Any]:
        """The sweep's config as it was run."""
        found = claimed(self.folder)
        return dict(to_plain(found)) if found else {}

    @property
    def data(self) -> str:
        """Which data the figures are about, in one line."""
        if self.config:
            return data_line(self.config)
        return f"Data: {', '.join(sorted(set(self.rows['data'])))}"

    @cached_property
    def studies(self) -> pd.DataFrame:
        """All suggestions."""
        return read_studies(self.folder)

    @cached_property
    def name(self) -> str:
        """The sweep's name."""
        return str(self.config.get("name") or self.rows["sweep"].iloc[0])

    @property
    def planned(self) -> int | None:
        """How many test victims the sweep asks for, those of all seeds together, where that is known."""
        return self.config["victims"]["test"] * self.config["seeds"] if self.config else None

    @cached_property
    def winners(self) -> dict[str, Winner]:
        """The best suggestion of each study."""
        return winners(self.folder)

    def tested(self, cell: str, attacker: str) -> pd.DataFrame:
        """The rows that the figures of a cell and attacker come from; none where no trial of theirs is finished."""
        mine = (self.rows["cell"] == cell) & (self.rows["attacker"] == attacker)
        if not mine.any():
            return self.rows[mine]
        return tested_rows(self.rows[mine], self.winners)
