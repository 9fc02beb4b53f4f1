"""The schema for editors: it takes every sweep file of ours, and not one of these mistakes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from attack_core.attacks.registry import NAMED
from orchestrator.axes.paths import put
from orchestrator.config.plain_yaml import read_yaml
from orchestrator.reference.schema import DIALECT, sweep_schema
from tests.support.paths import ROOT

SWEEPS = sorted((ROOT / "sweeps").rglob("*.yaml"))
SCHEMA = sweep_schema()
VALIDATOR = Draft202012Validator(SCHEMA)
QUICKSTART: dict[str, Any] = read_yaml((ROOT / "sweeps" / "quickstart.yaml").read_text(), where="quickstart")


def changed(key: str, value: object) -> dict[str, Any]:
    tree = copy.deepcopy(QUICKSTART)
    put(tree, key, value, where="test")
    return tree


def test_it_is_a_schema_of_the_draft_that_it_names() -> None:
    assert SCHEMA["$schema"] == DIALECT
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_sweep_file_is_valid(path: Any) -> None:
    assert not list(VALIDATOR.iter_errors(read_yaml(path.read_text(encoding="utf-8"), where=str(path))))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attackers.0.attack", "auto"),
        ("attackers.0.attack", "my_attack.py:Mine"),
        ("attackers.0.attack", {"kind": "my_attack.py:Mine", "steps": 3}),
        *(("attackers.0.attack", {"name": name}) for name in NAMED),
        ("cells.1.defense", [{"kind": "my_defense.py:Blur", "sigma": 1}]),
        ("cells.1.differs", {"federation.local.batch_size": 4, "model.input": {"height": 8, "width": 8}}),
        ("model", {"factory": "net.py:make", "weights": "w.safetensors"}),
        ("model", {"image_size": [32, 48]}),
        ("seeds", 3),
        ("axes", {"model.kind": ["cnn64"], "scene": {"a": {"model.kind": "mlp"}}, "defense.0.epsilon": [1]}),
        ("scales", {"small": {"study.suggestions": 1}}),
    ],
)
def test_short_forms_are_valid(key: str, value: object) -> None:
    assert not list(VALIDATOR.iter_errors(changed(key, value)))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sede", 3),
        ("seed", "three"),
        ("seeds", 1.5),
        ("federation.roundz", 3),
        ("federation.rounds", "3"),
        ("federation.participation", "poison"),
        ("model.kind", "lenett"),
        ("model.image_size", [32]),
        ("data.attribute", 3),
        ("study.sampler", "tpee"),
        ("study.storage", 3),
        ("capture.signal", "gradient"),
        ("execution.controls", "yes"),
        ("cells", "none"),
        ("cells.0", {"defense": []}),
        ("cells.1.defense.0.kind", "dp_updat"),
        ("cells.1.defense.0.epsilom", 8),
        ("cells.1.differs", {"federation.roundz": 3}),
        ("cells.1.differs", {"study.lag": 3}),
        ("attackers.0.attack", "atuo"),
        ("attackers.0.attack", {"name": "atuo"}),
        ("attackers.0.attack", {"kind": "matching", "iteration": 3}),
        ("attackers.0.search", {"lr": {"kind": "float", "low": 0.1}}),
        ("attackers.0.search", {"lr": [0.1, 1]}),
        ("axes", {"federation.roundz": [3]}),
        ("axes", {"federation.rounds": 3}),
        ("axes", {"study.lag": [3]}),
        ("axes", {"federation.rounds": []}),
        ("axes", [3]),
        ("scales", {"small": 3}),
    ],
)
def test_mistakes_are_not(key: str, value: object) -> None:
    assert list(VALIDATOR.iter_errors(changed(key, value)))


def test_every_key_of_the_common_settings_says_what_it_means() -> None:
    for group in (
        "DataConfig",
        "ModelConfig",
        "FederationConfig",
        "LocalTraining",
        "StudyConfig",
        "ExecutionConfig",
    ):
        for name, key in SCHEMA["$defs"][group]["properties"].items():
            assert key.get("description"), f"{group}.{name}"
