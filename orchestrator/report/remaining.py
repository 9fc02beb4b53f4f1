"""What is still missing in a results folder of the sweep that it belongs to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd

from orchestrator.config.plain import build
from orchestrator.config.sweep import AttackerConfig, HalvingConfig
from orchestrator.report.reader import Results


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One cell and attacker: tuning trials and test victims that are done, and how many there will be.

    `tuning_planned` is None while a study with a budget of time goes on.
    """

    cell: str
    attacker: str
    tuning: int
    tuning_planned: int | None
    tests: int
    tests_planned: int

    @property
    def name(self) -> str:
        """Cell and attacker."""
        return f"{self.cell} / {self.attacker}"

    @property
    def finished(self) -> bool:
        """Whether nothing is left to run."""
        return self.tests >= self.tests_planned and self.tuning >= (self.tuning_planned or 0)


def pairs(results: Results) -> list[Pair]:
    """Every cell and attacker of the sweep; none where `sweep.json` is missing."""
    return list(_pairs(results)) if results.config else []


def progress(results: Results) -> str | None:
    """`n of N trials`, as far as N is known; None where nothing is left to run."""
    found = pairs(results)
    if all(pair.finished for pair in found):
        return None
    done = sum(pair.tuning + pair.tests for pair in found)
    planned = [pair.tuning_planned for pair in found]
    if None in planned:
        return f"{done} trials so far"
    total = sum(pair.tests_planned for pair in found) + sum(count or 0 for count in planned)
    return f"{done} of {total} trials"


def _pairs(results: Results) -> Iterator[Pair]:
    rows = results.rows
    tuned = rows[rows["phase"] != "test"].groupby(["cell", "attacker"])["trial_id"].nunique()
    studies = dict(iter(results.studies.groupby("study")))
    for attacker in results.config["attackers"]:
        searched = build(AttackerConfig, attacker, where="sweep.json")
        planned = partial(_tuning, results.config, searched)
        for cell in results.config["cells"]:
            key = (cell["name"], attacker["name"])
            found = [studies.get(name) for name in results.study_names(*key)]
            tests = int(results.tested(*key)["trial_id"].nunique())
            tuning = [planned(study, tested=bool(tests)) for study in found]
            # With no suggestion that worked there is no attacker to test.
            failed = sum(study is not None and bool((study["state"] == "failed").all()) for study in found)
            yield Pair(
                cell=key[0],
                attacker=key[1],
                tuning=int(tuned.get(key, 0)),
                tuning_planned=None if None in tuning else sum(count or 0 for count in tuning),
                tests=tests,
                tests_planned=(len(found) - failed) * results.config["victims"]["test"],
            )


def _tuning(
    config: dict[str, Any], attacker: AttackerConfig, study: pd.DataFrame | None, *, tested: bool
) -> int | None:
    """How many tuning trials a study takes in all: those of its suggestions, whole ones for those to come."""
    settings, victims = config["study"], int(config["victims"]["tuning"])
    if not attacker.searches:
        return 0
    asked = 0 if study is None else len(study)
    known = 0 if study is None else int(study["trial_ids"].map(len).sum())
    if settings.get("seconds") is not None or settings.get("gpu_seconds") is not None:
        return known if tested else None
    grid = settings["sampler"] == "grid"
    suggestions = len(attacker.space.grid()) if grid else int(settings["suggestions"])
    left = max(0, suggestions - asked)
    if settings.get("halving"):
        halving = build(HalvingConfig, settings["halving"], where="sweep.json")
        return known + left * halving.screened(victims) + round(left * halving.keep * victims)
    return known + left * victims
