"""The lines of a summary: what is known of one attacker against one cell, typed, and as the columns of its table."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from orchestrator.analysis.intervals import NOTHING, Interval
from orchestrator.config.space import Params
from orchestrator.io.identity import canonical
from orchestrator.results.columns import SUMMARY
from orchestrator.results.winner import Measured


@dataclass(frozen=True)
class Control:
    """What anybody can answer without a signal: its name, and the column of the trials with its PSNR."""

    name: str
    column: str


MEAN_IMAGE = Control("mean public image", "psnr_mean_image")
CONTROLS = (
    MEAN_IMAGE,
    Control("random public images", "psnr_public"),
    Control("means of groups of public images", "psnr_groups"),
)


@dataclass(frozen=True, kw_only=True)
class Winner:
    """The winning suggestion of a study: number, value on the tuning victims in dB, parameters, of how many it is.

    `work` is how many images its attack differentiated twice for a victim, NaN where that is not known; `front` holds
    the suggestions that no other beats in both PSNR and work, by rising work.
    """

    suggestion: int
    value: float
    params: Params
    count: int
    work: float = math.nan
    front: tuple[Measured, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Privacy:
    """A chain's privacy statement: over all planned rounds, and of one release, at the same delta.

    `epsilon_replace_one` is NaN where amplification by sampling is claimed.
    """

    epsilon: float
    epsilon_release: float
    delta: float
    unit: str
    against: str
    adjacency: str
    epsilon_replace_one: float


@dataclass(frozen=True, kw_only=True)
class Utility:
    """What a cell's trainings came to; `majority` is the majority class's share of the validation images."""

    accuracy: Interval
    majority: float
    trainings: int
    diverged: bool
    not_finite: int


@dataclass(frozen=True, kw_only=True)
class Line:
    """One attacker against one cell: the columns of the summary, where `orchestrator.results.columns` explains them.

    `means` holds those that are plain means of the trials' columns, by name. NaN stands for a figure that there is not.
    """

    cell: str
    attacker: str
    defense: str
    defense_params: str
    signal: str
    view: str
    round: int
    watched: int = 1
    epsilon_watched: float = math.nan
    """What the watched rounds spend together; NaN without a statement about them."""
    weights_accuracy: float
    privacy: Privacy | None
    differs: Mapping[str, object]
    labels: str
    methods: Mapping[str, int]
    notes: tuple[str, ...]
    n: int
    seeds: int = 1
    images: int
    tests: int
    tests_failed: int
    psnr: Interval
    psnr_preselected: Interval
    psnr_median: float = math.nan
    psnr_worst: float
    success: Interval
    control: Control
    psnr_control: float
    gain: Interval
    over_prior: Interval
    label_match: float
    label_accuracy: Interval
    means: Mapping[str, float]
    utility: Utility | None
    winner: Winner | None
    trials: int
    trials_failed: int
    failure: str = ""
    """The error of most failed trials."""
    not_observable: int
    undefended: str | None
    drop: Interval
    beside: str | None
    lead: Interval

    @property
    def name(self) -> str:
        """Cell and attacker."""
        return f"{self.cell} / {self.attacker}"

    @property
    def method(self) -> str:
        """What really ran, the most frequent first; with how often where it was not always the same."""
        if len(self.methods) < 2:
            return "".join(self.methods)
        return ", ".join(f"{method} ({count})" for method, count in self.methods.items())

    @property
    def oracle_gap(self) -> float:
        """How much PSNR a choice among restarts by the truth would add, dB; NaN where it is not known."""
        return self.means["psnr_oracle"] - self.psnr.mean

    @property
    def psnr_of_mse(self) -> float:
        """The PSNR of the mean squared error, dB, which `psnr_bound` bounds; NaN where there is none."""
        found = self.means["mse"]
        return -10.0 * math.log10(found) if found > 0 else (math.inf if found == 0 else math.nan)

    @property
    def hidden(self) -> bool:
        """Whether the threat model left the attacker no signal in any trial."""
        return bool(self.not_observable) and self.not_observable == self.trials

    @property
    def batches(self) -> bool:
        """Whether signals hold several images."""
        return self.images > self.n

    @property
    def reached(self) -> int:
        """How many images are recovered."""
        return round(self.success.mean * self.images)

    @property
    def differs_in_threat_alone(self) -> bool:
        """Whether the cell has the data, weights and rounds of the cells without settings of their own.

        What the attacker sees or knows changes none of them, so such a cell is compared victim by victim like the
        others.
        """
        return not self.differs_beside_threat

    @property
    def differs_beside_threat(self) -> Mapping[str, object]:
        """The cell's own settings of data, weights and rounds, which are what victims come from."""
        return {path: value for path, value in self.differs.items() if not path.startswith("threat.")}

    def columns(self) -> dict[str, Any]:
        """The line as the columns of `summary.parquet`."""
        privacy, utility, winner = self.privacy, self.utility, self.winner
        found = {name: getattr(self, name) for name in _AS_THEY_ARE}
        for name in _INTERVALS:
            found |= _bounds(name, getattr(self, name))
        return {
            **found,
            **self.means,
            **_bounds("accuracy", utility.accuracy if utility else NOTHING),
            "epsilon": privacy.epsilon if privacy else math.nan,
            "epsilon_release": privacy.epsilon_release if privacy else math.nan,
            "delta": privacy.delta if privacy else math.nan,
            "dp_unit": privacy.unit if privacy else None,
            "dp_against": privacy.against if privacy else None,
            "adjacency": privacy.adjacency if privacy else None,
            "epsilon_replace_one": privacy.epsilon_replace_one if privacy else math.nan,
            "differs": canonical(dict(self.differs)),
            "notes": json.dumps(self.notes, ensure_ascii=False),
            "control": self.control.name,
            "majority": utility.majority if utility else math.nan,
            "trainings": utility.trainings if utility else 0,
            "diverged": utility.diverged if utility else None,
            "not_finite": utility.not_finite if utility else None,
            "suggestion": winner.suggestion if winner else None,
            "tuning_psnr": winner.value if winner else math.nan,
            "tuning_work": winner.work if winner else math.nan,
            "front": json.dumps(
                [[each.suggestion, each.psnr, each.work] for each in (winner.front if winner else ())]
            ),
            "suggestions": winner.count if winner else 0,
            "hyperparameters": json.dumps(winner.params) if winner else "{}",
        }


_AS_THEY_ARE = (
    *("cell", "attacker", "defense", "defense_params", "signal", "view", "round", "weights_accuracy"),
    *("watched", "epsilon_watched"),
    *(
        "labels",
        "method",
        "n",
        "seeds",
        "images",
        "tests",
        "tests_failed",
        "psnr_median",
        "psnr_worst",
        "psnr_control",
        "psnr_of_mse",
    ),
    *("label_match", "trials", "trials_failed", "not_observable", "undefended", "beside"),
)
_INTERVALS = (
    *("psnr", "psnr_preselected", "success", "gain", "over_prior", "label_accuracy", "drop", "lead"),
)


def frame(lines: Iterable[Line]) -> pd.DataFrame:
    """The table of a summary, with the declared columns in their order."""
    return pd.DataFrame([line.columns() for line in lines])[[column.name for column in SUMMARY]]


def _bounds(name: str, found: Interval) -> dict[str, float]:
    return {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}
