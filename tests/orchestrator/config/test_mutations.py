"""Whatever stands in a sweep file or on the command line: settings, or one line of at most 500 characters."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_core.base.errors import LONGEST, InputError
from orchestrator.cli.experiment import Experiment, parse, parser
from orchestrator.config.parse import load_sweep
from orchestrator.driver.plan import make_plan, plan_table

TREE: dict[str, Any] = {
    "name": "demo",
    "seed": 7,
    "data": {"kind": "auto", "root": "faces", "train": 16, "attribute": "Male"},
    "model": {"kind": "mlp", "image_size": 16, "classes": 2, "batch_norm": "eval", "bottleneck": None},
    "federation": {
        "clients": 4,
        "fraction": 0.5,
        "rounds": 3,
        "partition": {"kind": "dirichlet", "alpha": 0.5},
        "local": {"lr": 0.1, "momentum": 0.5, "batch_size": 2, "max_steps": 3},
    },
    "victims": {"tuning": 1, "test": 2},
    "study": {"suggestions": 3, "prune": 2.0, "seconds": None, "storage": "journal"},
    "utility": {"train": 1000, "lr": 0.1},
    "execution": {"threads": 1, "gpus_per_trial": None, "images": "test"},
    "threat": {"labels": "known"},
    "cells": [
        {"name": "none"},
        {
            "name": "dp",
            "defense": [{"kind": "dp_update", "epsilon": 8.0}],
            "differs": {"federation.rounds": 2},
        },
        {"name": "he", "defense": [{"kind": "noise", "sigma": 0.1}, {"kind": "prune", "ratio": 0.5}]},
    ],
    "thresholds": [
        {
            "name": "sigma",
            "defense": [{"kind": "noise", "sigma": 0.1}],
            "strength": {"path": "defense.0.sigma", "weak": 1e-3, "strong": 1.0, "points": 3, "scale": "log"},
        },
        {
            "name": "steps",
            "strength": {
                "path": "federation.local.batch_size",
                "weak": 1,
                "strong": 8,
                "points": 3,
                "integer": True,
                "scale": "log",
            },
        },
    ],
    "attackers": [
        {
            "name": "generic",
            "attack": {
                "kind": "matching",
                "iterations": 5,
                "restarts": 2,
                "lr": [0.1, 0.2],
                "clamp": 2.0,
                "objective": {"kind": "both", "l2_weight": 1.0},
                "priors": [{"kind": "tv", "weight": 0.1}],
                "early_stop": {"patience": 3, "min_delta": 0.1},
                "local": {"kind": "simulated", "epochs": 2},
            },
            "search": {
                "clamp": {"kind": "float", "low": 0.1, "high": 2.0, "log": True},
                "iterations": {"kind": "int", "low": 1, "high": 9},
                "init": {"kind": "choice", "choices": ["normal", "mean"]},
            },
        },
        {"name": "named", "attack": {"name": "auto", "feature_weight": 0.2}},
        {"name": "several", "families": {"dlg": {"attack": "dlg", "search": {}}}},
    ],
    "scales": {"small": {"seed": 1, "cells.1.defense.0.epsilon": 4}},
    "scale": "small",
}

NUMBERS = [
    *(
        "9" * 5000,
        "0x_",
        "0x" + "f" * 90,
        "1e400",
        "-.inf",
        ".nan",
        "1e-400",
        "1.7e308",
        "-1",
        "0",
        "0.0",
        "-0.0",
    ),
    *(
        "1e18",
        "1000000000000000000",
        "9223372036854775807",
        "9223372036854775808",
        "1" + "0" * 30,
        "4096",
        "2.5",
        "1",
    ),
]
TAGS = [
    *(
        "2024-13-45",
        "2026-11-28",
        "12:30:00",
        "!!bool maybe",
        "!!int abc",
        "!!float x",
        "!!set {a}",
        "!!binary x",
    ),
    *("!!str 3", "!!python/name:os.system", "!foo 3", "*x", "&x [*x]", "{<<: 3}", "{<<: {kind: noise}}"),
]
SHAPES = [
    *(
        "{1: 2}",
        "{? [a] : 2}",
        "{kind: 3}",
        "{kind: [1]}",
        "{kind: auto}",
        "{name: dlg}",
        "{name: [x]}",
        "{}",
        "[]",
    ),
    *(
        "[[[]]]",
        "null",
        "true",
        "false",
        "yes",
        "auto",
        "~",
        "[null]",
        "[1, a, {}]",
        "[" * 60 + "]" * 60,
        "{a: b",
        "- 3",
    ),
]
TEXTS = [
    *('"\\UFFFFFFFF"', '"\\uD800"', '"\\n\\r\\x1b[31m\\u2028"', '""', "'" + "a" * 9000 + "'"),
    *("²", "１", "🙂", "a.b", "../..", "\\", "%", "[bold]x[/]"),
]
NASTY = [*NUMBERS, *TAGS, *SHAPES, *TEXTS]


def places(node: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Every place in plain data, the whole among them."""
    yield path
    entries = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in entries:
        yield from places(value, (*path, key))


PLACES = list(places(TREE))


def written(changes: dict[tuple[str | int, ...], str]) -> str:
    """The tree as YAML with raw text at some places."""
    tree, raw = {"": copy.deepcopy(TREE)}, {}
    for number, (path, text) in enumerate(changes.items()):
        node: Any = tree
        try:
            for key in ("", *path)[:-1]:
                node = node[key]
            node[("", *path)[-1]] = f"@{number}@"
        except (TypeError, KeyError, IndexError):
            continue  # Another change has taken this place away.
        raw[f'"@{number}@"'] = text
    text = json.dumps(tree[""])
    for mark, value in raw.items():
        text = text.replace(mark, value)
    return text


def refused_in_one_line(action: Callable[[], object]) -> bool:
    """Whether `action` was refused; then in one line that can be read."""
    try:
        action()
    except InputError as error:
        text = str(error)
        assert 0 < len(text) <= LONGEST
        assert text.isprintable()
        return True
    return False


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mutations") / "sweep.yaml"


def load(file: Path, text: str, overrides: tuple[str, ...] = ()) -> None:
    file.write_text(text, encoding="utf-8", errors="surrogatepass")
    plan_table(make_plan(load_sweep(file, overrides), "*"))


def test_the_tree_itself_is_a_sweep(file: Path) -> None:
    assert not refused_in_one_line(lambda: load(file, written({})))


@pytest.mark.parametrize("text", NASTY, ids=range(len(NASTY)))
def test_a_setting_is_replaced_by_something_nasty(file: Path, text: str) -> None:
    for path in random.Random(text).sample(PLACES, 2):
        refused_in_one_line(lambda path=path: load(file, written({path: text})))  # type: ignore[misc]


@given(changes=st.dictionaries(st.sampled_from(PLACES), st.sampled_from(NASTY), min_size=1, max_size=3))
@settings(max_examples=25, deadline=None)
def test_several_settings_are_replaced(file: Path, changes: dict[tuple[str | int, ...], str]) -> None:
    refused_in_one_line(lambda: load(file, written(changes)))


@given(start=st.integers(0, len(written({}))), length=st.integers(0, 40), text=st.text(max_size=8))
@settings(max_examples=20, deadline=None)
def test_characters_are_lost_and_added(file: Path, start: int, length: int, text: str) -> None:
    whole = written({})
    refused_in_one_line(lambda: load(file, whole[:start] + text + whole[start + length :]))


@given(
    key=st.text(max_size=20) | st.sampled_from([".".join(map(str, path)) for path in PLACES]),
    value=st.text(max_size=9),
)
@settings(max_examples=20, deadline=None)
def test_anything_may_stand_behind_set(file: Path, key: str, value: str) -> None:
    refused_in_one_line(lambda: load(file, written({}), (f"{key}={value}",)))


WORDS = [*parser().flags, *NASTY, "--x", "-", "--", "paillier", "auto", "inf", "nan"]


@given(words=st.lists(st.sampled_from(WORDS) | st.text(max_size=9), max_size=6))
@settings(max_examples=100, deadline=None)
def test_anything_may_stand_behind_run(words: list[str]) -> None:
    def described() -> None:
        experiment = parse([word for word in words if word != "--help"])
        assert isinstance(experiment, Experiment)
        experiment.remarks()
        experiment.sweep()

    refused_in_one_line(described)
