"""Settings that have the field's word as a second name: either is read, and they mean the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fl_core.base.errors import InputError
from orchestrator.config.parse import load_sweep
from orchestrator.config.spelling import SECOND_NAMES
from orchestrator.config.sweep import AttackerConfig, StudyConfig, SweepConfig
from orchestrator.reference.keys import meanings

SEARCH = {"lr": {"kind": "float", "low": 0.01, "high": 0.1}}


def load(tmp_path: Path, study: object, attacker: dict[str, object], *overrides: str) -> SweepConfig:
    file = tmp_path / "sweep.yaml"
    tree = {"name": "x", "study": study, "attackers": [{"name": "a", **attacker}]}
    tree["scales"] = {"small": {"study.random_suggestions": 2}}
    file.write_text(json.dumps(tree))
    return load_sweep(file, overrides)


def test_either_name_gives_the_same_sweep(tmp_path: Path) -> None:
    families = {"one": {"attack": "dlg", "search": SEARCH}}
    old = load(tmp_path, {"lag": 3, "startup": 5}, {"uses_facts": False, "families": families})
    new = load(
        tmp_path, {"feedback_delay": 3, "random_suggestions": 5}, {"adaptive": False, "algorithms": families}
    )
    assert new == old
    assert (new.study.lag, new.study.startup) == (3, 5)
    assert not new.attackers[0].uses_facts


def test_an_override_and_a_scale_may_use_either(tmp_path: Path) -> None:
    for file_has in ("lag", "feedback_delay"):
        sweep = load(
            tmp_path, {file_has: 3}, {}, "study.feedback_delay=7", "attackers.0.adaptive=false", "scale=small"
        )
        assert (sweep.study.lag, sweep.study.startup) == (7, 2)
        assert not sweep.attackers[0].uses_facts


def test_both_at_once_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"study\.feedback_delay and study\.lag are the same setting"):
        load(tmp_path, {"lag": 3, "feedback_delay": 3}, {})
    with pytest.raises(InputError, match=r"attackers\.0\.adaptive and attackers\.0\.uses_facts"):
        load(tmp_path, {}, {"adaptive": True, "uses_facts": True})


@pytest.mark.parametrize(("group", "kind"), [("study", StudyConfig), ("attackers", AttackerConfig)])
def test_each_second_name_stands_beside_the_setting_that_it_means(group: str, kind: type) -> None:
    said = meanings(kind)
    for second, name in SECOND_NAMES[group].items():
        assert f"Also: `{second}`" in said[name]
