"""Choices of several types: what the columns hold, and that a sweep over them runs and resumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from fl_core.base.errors import InputError
from orchestrator.config.plain import build
from orchestrator.config.space import Choice, IntRange, Parameter, Scalar
from orchestrator.config.sweep import AttackerConfig
from orchestrator.driver.sweep import run_sweep
from orchestrator.results.schema import trials_schema, trials_table
from orchestrator.results.store import ResultStore, read_rows
from orchestrator.runtime.progress import Silent
from tests.support.results_folder import row, trial
from tests.support.small import run_quietly, sweep


@pytest.mark.parametrize(
    ("choices", "kind", "stored"),
    [
        ((None, 2.0), pa.float64(), [None, 2.0]),
        ((None, 2.0, 3), pa.float64(), [None, 2.0, 3.0]),
        ((1, 2.5, 2**60 + 1), pa.float64(), [1.0, 2.5, float(2**60)]),
        ((None, 1), pa.int64(), [None, 1]),
        ((-(2**63), 2**63 - 1), pa.int64(), [-(2**63), 2**63 - 1]),
        ((True, None), pa.bool_(), [True, None]),
        (("a", None), pa.string(), ["a", None]),
        ((None,), pa.string(), [None]),
        (("a", 2.0, 3, True, None), pa.string(), ["a", "2.0", "3", "true", None]),
        ((True, 2), pa.string(), ["true", "2"]),
        ((False, 0.5, None), pa.string(), ["false", "0.5", None]),
    ],
)
def test_what_a_column_holds(
    tmp_path: Path, choices: tuple[Scalar, ...], kind: Any, stored: list[Any]
) -> None:
    columns = trials_schema([{"x": Choice(kind="choice", choices=choices)}])
    assert columns.field("hp_x").type == kind
    rows = [{"trial_id": str(i), "hp_x": value} for i, value in enumerate(choices)]
    assert trials_table(rows, columns).column("hp_x").to_pylist() == stored
    with ResultStore(tmp_path, columns) as store:
        for victim, value in enumerate(choices):
            store.add_trial(trial(row(victim=victim, hp_x=value)))
        assert read_rows(tmp_path).column("hp_x").to_pylist() == stored, "from the log alone"
    assert (
        pd.read_parquet(tmp_path / "trials")["hp_x"].tolist() == pytest.approx(stored, nan_ok=True)
        or None in stored
    )
    assert read_rows(tmp_path).column("hp_x").to_pylist() == stored


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ((1, 2**63), "numbers of at most 64 bits"),
        ((1.5, -(2**64)), "numbers of at most 64 bits"),
        (("a", 10**30), "numbers of at most 64 bits"),
        ((1, True), "values without repeats"),
        ((0.0, 0), "values without repeats"),
    ],
)
def test_choices_that_no_column_can_hold_are_refused(choices: tuple[Scalar, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Choice(kind="choice", choices=choices)


@pytest.mark.parametrize(("low", "high"), [(0, 2**63), (-(10**30), 0)])
def test_ranges_that_no_column_can_hold_are_refused(low: int, high: int) -> None:
    with pytest.raises(InputError, match="a whole number of at most 64 bits"):
        IntRange(kind="int", low=low, high=high)


def test_a_sweep_file_with_such_numbers_is_one_line() -> None:
    for parameter in (
        {"kind": "choice", "choices": [1, 2**63]},
        {"kind": "int", "low": 0, "high": 10**400},
    ):
        plain = {"name": "a", "attack": {"kind": "matching"}, "search": {"restarts": parameter}}
        with pytest.raises(InputError, match=r"^test: search\.restarts") as raised:
            build(AttackerConfig, plain, where="test")
        assert "\n" not in str(raised.value)


def test_the_whole_range_of_64_bits_is_drawn_from() -> None:
    whole: Parameter = IntRange(kind="int", low=-(2**62), high=2**62)
    assert trials_schema([{"x": whole}]).field("hp_x").type == pa.int64()


def test_a_sweep_over_null_and_numbers_runs_and_resumes(faces_root: Path, tmp_path: Path) -> None:
    search = {"clamp": {"kind": "choice", "choices": [None, 2.0]}}
    settings: dict[str, Any] = {
        "cells": [{"name": "none"}],
        "attackers__0__search": search,
        "attackers__0__attack__iterations": 2,
        "victims": {"tuning": 1, "test": 1},
    }
    rows = run_quietly(sweep(faces_root, study__suggestions=4, **settings), tmp_path)
    tuned = rows[rows["phase"] == "tune"].sort_values("suggestion")
    params = pd.read_parquet(tmp_path / "studies").sort_values("suggestion")["params"]
    assert rows["hp_clamp"].dtype == float
    assert tuned["hp_clamp"].isna().tolist() == [json.loads(text)["clamp"] is None for text in params]
    assert 0 < tuned["hp_clamp"].isna().sum() < 4
    more = sweep(faces_root, study__suggestions=5, **settings)
    outcome = run_sweep(more, tmp_path, address="serial", reporter=Silent())
    assert outcome.failed == 0
    assert 1 <= outcome.fresh <= 2
