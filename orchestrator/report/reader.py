"""A results folder as the report reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from optuna.distributions import BaseDistribution

from orchestrator.analysis.lines import Line, Winner
from orchestrator.analysis.summary import by_victim, exact, read_studies, read_trials, tested_rows, winners
from orchestrator.capture.datasets import data_line
from orchestrator.config.plain import build, to_plain
from orchestrator.config.sweep import AttackerConfig
from orchestrator.results.folder import claimed
from orchestrator.results.schema import TRIALS_BASE, study_name
from orchestrator.results.there import NoResults


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

    @cached_property
    def spaces(self) -> dict[str, dict[str, BaseDistribution]]:
        """What each study's parameters were drawn from, by the names of study and parameter."""
        if not self.config:
            return {}
        config = self.config
        found: dict[str, dict[str, BaseDistribution]] = {}
        for plain in config["attackers"]:
            space = build(AttackerConfig, plain, where="sweep.json").space
            drawn = {name: parameter.distribution() for name, parameter in space.every().items()}
            for cell in config["cells"]:
                found |= dict.fromkeys(self.study_names(cell["name"], plain["name"]), drawn)
        return found

    def study_names(self, cell: str, attacker: str) -> list[str]:
        """The studies of a cell and attacker, one for each seed of the noted config."""
        first, seeds = self.config["seed"], self.config["seeds"]
        return [study_name(cell, attacker, seed=seed, first=first) for seed in range(first, first + seeds)]

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
        return self._tested.get((cell, attacker), self.rows.iloc[:0])

    @cached_property
    def _tested(self) -> dict[tuple[str, str], pd.DataFrame]:
        groups = self.rows.groupby(["cell", "attacker"], observed=True, sort=False)
        return {(str(cell), str(who)): tested_rows(rows, self.winners) for (cell, who), rows in groups}

    @cached_property
    def victims(self) -> dict[tuple[str, str], pd.DataFrame]:
        """Each line's figures by victim, by cell and attacker, as `by_victim` has them."""
        return {
            (line.cell, line.attacker): by_victim(exact(self.tested(line.cell, line.attacker)))
            for line in self.lines
        }
