"""Which hyperparameters decide a study's values: PED-ANOVA by Optuna, over the suggestions that have a value."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
import pandas as pd
from optuna.distributions import BaseDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

FEWEST_SUGGESTIONS = 20
"""Suggestions with a value below which no importance is given."""
SHUFFLES = 39
"""How often the values are dealt anew to the suggestions, to see which importances chance gives."""


def importances(studies: pd.DataFrame, spaces: Mapping[str, Mapping[str, BaseDistribution]]) -> pd.DataFrame:
    """How much each hyperparameter decides whether a suggestion is among the better ones of its study.

    `studies` has the columns of `studies.parquet`; `spaces` what each study's parameters were drawn from. One row for
    each study and parameter, the most important first: `study`, `parameter`, `importance` (a share of all), `p`, and
    `n`, the suggestions behind it. PED-ANOVA (Watanabe, Bansal and Hutter, IJCAI 2023) compares where the best
    suggestions lie with where all lie. It finds differences in pure noise too, so `p` says in which share of
    `SHUFFLES` with values dealt at random the parameter was as important. Parameters that not all suggestions have,
    as those of one family of attacks, are left out. So are studies with fewer than `FEWEST_SUGGESTIONS` values, or
    without a difference.
    """
    found = []
    for study, told in studies[studies["state"] == "ok"].groupby("study", sort=False):
        params: list[dict[str, Any]] = [json.loads(text) for text in told["params"]]
        space = {
            name: kind
            for name, kind in spaces.get(str(study), {}).items()
            if not kind.single() and all(name in drawn for drawn in params)
        }
        if len(told) < FEWEST_SUGGESTIONS or not space or told["value"].nunique() < 2:
            continue
        values = told["value"].to_numpy(dtype=np.float64)
        found += [(str(study), *figures, len(told)) for figures in _evaluated(params, values, space)]
    return pd.DataFrame(found, columns=["study", "parameter", "importance", "p", "n"])


def _evaluated(
    params: Sequence[dict[str, Any]], values: npt.NDArray[np.float64], space: Mapping[str, BaseDistribution]
) -> Iterator[tuple[str, float, float]]:
    """Each parameter of the space with its importance and p."""
    random = np.random.default_rng(0)
    measured = _ped_anova(params, values, space)
    shuffled = [_ped_anova(params, random.permutation(values), space) for _ in range(SHUFFLES)]
    total = sum(measured.values())
    for name, value in sorted(measured.items(), key=lambda entry: -entry[1]):
        as_large = sum(other[name] >= value for other in shuffled)
        yield name, value / total if total else 0.0, (as_large + 1) / (SHUFFLES + 1)


def _ped_anova(
    params: Sequence[dict[str, Any]], values: npt.NDArray[np.float64], space: Mapping[str, BaseDistribution]
) -> dict[str, float]:
    """Optuna's importances, not yet as shares, of a study that is built of its records."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    study.add_trials(
        [
            optuna.create_trial(
                params={name: drawn[name] for name in space}, distributions=dict(space), value=float(value)
            )
            for drawn, value in zip(params, values, strict=True)
        ]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(), normalize=False)
