"""Hyperparameter importance: what decides a study comes first, noise has no small p, few suggestions have none."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from orchestrator.analysis.importance import FEWEST_SUGGESTIONS, importances

SPACE: dict[str, BaseDistribution] = {
    "lr": FloatDistribution(1e-3, 1.0, log=True),
    "tv": FloatDistribution(0.0, 1.0),
    "init": CategoricalDistribution(["normal", "fourier"]),
    "fixed": CategoricalDistribution(["one"]),
}


def study(count: int, *, seed: int = 0, matters: float = 3.0) -> pd.DataFrame:
    """A random search of which `tv` alone decides, with noise."""
    random = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        params = {
            "lr": float(10 ** random.uniform(-3, 0)),
            "tv": float(random.uniform()),
            "init": str(random.choice(["normal", "fourier"])),
            "fixed": "one",
        }
        value = 20 - matters * abs(params["tv"] - 0.2) * 10 + random.normal(0, 0.3)
        rows.append(("none/generic", number, json.dumps(params), "ok", value))
    return pd.DataFrame(rows, columns=["study", "suggestion", "params", "state", "value"])


def test_what_decides_comes_first() -> None:
    found = importances(study(60), {"none/generic": SPACE})
    assert found["parameter"].iloc[0] == "tv"
    assert set(found["parameter"]) == {"lr", "tv", "init"}
    assert found["importance"].sum() == 1.0 or abs(found["importance"].sum() - 1) < 1e-9
    assert (found["n"] == 60).all()
    p = found.set_index("parameter")["p"]
    assert p["tv"] == 1 / 40
    assert importances(study(60), {"none/generic": SPACE}).equals(found)


def test_in_noise_nothing_is_told_from_chance_more_often_than_it_says() -> None:
    found = [importances(study(20, seed=seed, matters=0.0), {"none/generic": SPACE}) for seed in range(8)]
    p = pd.concat(found)["p"]
    assert (p <= 0.05).mean() <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / len(p))


def test_failed_suggestions_do_not_count_and_too_few_give_none() -> None:
    told = study(FEWEST_SUGGESTIONS)
    assert len(importances(told, {"none/generic": SPACE}))
    told.loc[3, ["state", "value"]] = ["failed", float("nan")]
    assert importances(told, {"none/generic": SPACE}).empty
    assert importances(study(60).assign(value=20.0), {"none/generic": SPACE}).empty
    assert importances(study(60), {}).empty
    assert list(importances(told, {}).columns) == ["study", "parameter", "importance", "p", "n"]


def test_of_families_their_choice_alone_is_shared() -> None:
    told = study(40)
    families = {"family": CategoricalDistribution(["a", "b"]), "a.lr": FloatDistribution(0, 1)}
    params = [json.dumps({"family": "a", "a.lr": 0.01 * i} if i % 2 else {"family": "b"}) for i in range(40)]
    found = importances(told.assign(params=params), {"none/generic": families})
    assert list(found["parameter"]) == ["family"]
