"""Attackers of any family: by name, in a union, searched together; what ran is in the rows."""

from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pytest
import torch
from pydantic import TypeAdapter
from rich.console import Console
from torch import nn

from attack_core.attacks.registry import NAMED
from attack_core.base.types import Attack, Reconstruction
from attack_core.matching.matching import Matching
from fl_core.base.errors import InputError
from fl_core.threat.observation import Observation
from orchestrator.analysis.summary import summarize
from orchestrator.config import parse, plain
from orchestrator.config import sweep as settings
from orchestrator.config.parse import load_sweep, spell_out, suggested_attack
from orchestrator.config.plain import build, to_plain
from orchestrator.config.sweep import AttackerConfig, SweepConfig
from orchestrator.driver.plan import make_plan, plan_table
from orchestrator.driver.sweep import Outcome, run_sweep
from orchestrator.runtime.progress import Silent
from tests.support.small import comparable, sweep, tree


@dataclass(frozen=True, kw_only=True)
class Grey(Attack):
    """Answers with one shade, whatever it sees, and refuses shades above 1 only when it runs."""

    kind: Literal["grey"] = "grey"
    shade: float = 0.0

    def cost(self, images: int) -> float:
        return 0.0

    def __call__(
        self,
        observation: Observation,
        model: nn.Module,
        generator: torch.Generator,
        *,
        progress: Any = None,
    ) -> Reconstruction:
        if self.shade > 1:
            raise InputError(f"the signal conv.0.weight does not allow shade {self.shade}")
        size, count = observation.model.image_size, observation.examples
        images = torch.full((count, 3, size, size), self.shade)
        return Reconstruction(
            images=images,
            labels=torch.zeros(count, dtype=torch.int64),
            loss=float("nan"),
            candidates=images[None],
            history=torch.empty(0, 1),
            iterations=0,
            failed=0,
            method="grey: plain",
            notes=("No signal is used; it would be work.",),
        )


@pytest.fixture
def grey(monkeypatch: pytest.MonkeyPatch) -> None:
    """`Grey` beside whatever attacks there are; what was known of the types without it is forgotten meanwhile."""
    monkeypatch.setattr(plain, "_adapter", cache(TypeAdapter))
    for module in (settings, parse):
        monkeypatch.setattr(module, "AnyAttack", settings.AnyAttack | Grey)


FAMILIES = {
    "quick": {
        "attack": {"kind": "matching", "iterations": 4},
        "search": {
            "lr": {"kind": "float", "low": 0.01, "high": 0.3, "log": True},
            "restarts": {"kind": "int", "low": 1, "high": 2},
        },
    },
    "grey": {
        "attack": {"kind": "grey"},
        "search": {"shade": {"kind": "choice", "choices": [0.0, 0.3]}},
    },
}
BOTH = [{"name": "any", "families": FAMILIES}]
ONE = [{"name": "none"}]


def run(config: SweepConfig, out: Path) -> Outcome:
    return run_sweep(config, out, address="serial", reporter=Silent())


@pytest.mark.usefixtures("grey")
def test_an_attack_of_another_kind_survives_json_and_takes_parameters() -> None:
    attacker = build(AttackerConfig, {"attack": {"kind": "grey", "shade": 0.5}}, where="test")
    assert attacker.attack == Grey(shade=0.5)
    assert build(AttackerConfig, to_plain(attacker), where="test") == attacker
    assert suggested_attack(attacker, {"shade": 0.25}) == Grey(shade=0.25)
    assert (attacker.attack.restarts, attacker.attack.together) == (1, 1)
    assert attacker.attack.packed(1) == attacker.attack
    with pytest.raises(InputError, match="Grey matches no gradients and has no lr"):
        attacker.attack.with_matching({"lr": 0.5})
    with pytest.raises(InputError, match=r"must be one of .*'grey'.*'matching'"):
        build(AttackerConfig, {"attack": {"kind": "gray"}}, where="test")
    with pytest.raises(InputError, match=r"unknown key 'attack\.shad'\. Did you mean 'shade'"):
        build(AttackerConfig, {"attack": {"kind": "grey", "shad": 0.5}}, where="test")


@pytest.mark.usefixtures("grey")
@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (
            {"kind": "matching", "objective": {"kind": "l3"}},
            "attack.objective.kind = \"l3\": must be one of 'both'",
        ),
        (
            {"kind": "auto", "fallback": {"objective": {"kind": "l3"}}},
            "attack.fallback.objective.kind = \"l3\": must be one of 'both'",
        ),
        (
            {"kind": "auto", "fallback": {"kind": "grey"}},
            "attack.fallback.kind = \"grey\": must be one of 'matching'",
        ),
        ({"kind": "analytic", "fallback": {"lr": 0}}, "Matching.lr = 0"),
    ],
)
def test_mistakes_inside_a_union_name_the_member_that_was_meant(attack: Any, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        build(AttackerConfig, {"attack": attack}, where="test")


@pytest.mark.usefixtures("grey")
def test_a_sweep_over_families_runs_resumes_and_says_what_ran(faces_root: Path, tmp_path: Path) -> None:
    config = sweep(faces_root, attackers=BOTH, cells=ONE, study__suggestions=6, study__startup=4)
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    assert run(config, whole).failed == 0
    rows = pd.read_parquet(whole / "trials")
    assert set(rows["hp_family"]) == {"grey", "quick"}
    plain, searched = rows[rows["hp_family"] == "grey"], rows[rows["hp_family"] == "quick"]
    assert set(plain["attack"]) == {"grey"}
    assert set(plain["method"]) == {"grey: plain"}
    assert set(searched["method"]) == {"matching"}
    assert json.loads(plain["notes"].iloc[0]) == ["No signal is used; it would be work."]
    assert plain["hp_quick_lr"].isna().all()
    assert plain["hp_grey_shade"].notna().all()
    assert searched["hp_grey_shade"].isna().all()
    for row in plain.to_dict("records"):
        assert json.loads(row["attack_params"])["shade"] == row["hp_grey_shade"]
    assert rows["label_accuracy"].isin([0.0, 1.0]).all(), "one label is right or wrong"
    assert rows["weights_accuracy"].nunique() == 1
    assert rows["weights_accuracy"].between(0, 1).all()
    study = pd.read_parquet(whole / "studies")
    best = study.loc[study["value"].idxmax()]
    line = summarize(whole).iloc[0]
    assert line["suggestion"] == best["suggestion"]
    assert (
        line["method"] == {"grey": "grey: plain", "quick": "matching"}[json.loads(best["params"])["family"]]
    )

    fewer = sweep(faces_root, attackers=BOTH, cells=ONE, study__suggestions=3, study__startup=4)
    assert run(fewer, resumed).failed == 0
    assert run(config, resumed).failed == 0
    kept = comparable(resumed)
    tuned = [frame[frame["phase"] == "tune"].reset_index(drop=True) for frame in (comparable(whole), kept)]
    pd.testing.assert_frame_equal(*tuned)


@pytest.mark.usefixtures("grey")
def test_an_attack_that_refuses_its_signal_leaves_one_clear_row(faces_root: Path, tmp_path: Path) -> None:
    attackers = [{"name": "any", "attack": {"kind": "grey", "shade": 2.0}}]
    outcome = run(sweep(faces_root, attackers=attackers, cells=ONE), tmp_path)
    assert (outcome.trials, outcome.failed) == (3, 3)
    rows = pd.read_parquet(tmp_path / "trials")
    assert set(rows["error"]) == {"the signal conv.0.weight does not allow shade 2.0"}
    assert rows[["method", "notes", "label_accuracy", "psnr", "image_id"]].isna().all(axis=None)
    assert not list((tmp_path / "images").glob("part-*"))
    assert not list(tmp_path.glob("**/_*"))


@pytest.mark.usefixtures("grey")
def test_a_plan_counts_families(faces_root: Path) -> None:
    choices = {"lr": {"kind": "choice", "choices": [0.1, 0.2, 0.3]}}
    families = FAMILIES | {"quick": {"attack": {"iterations": 4}, "search": choices}}
    attackers = [{"name": "any", "families": families}]
    spelled = tree(faces_root, attackers=attackers, cells=ONE, study={"sampler": "grid", "lag": 2})
    spell_out(spelled, where="test")
    console = Console(width=120, file=io.StringIO())
    with console.capture() as shown:
        console.print(plan_table(make_plan(build(SweepConfig, spelled, where="test"), ["*"])))
    assert " 5 " in shown.get(), "three choices of one family and two of the other"


def test_attacks_by_name_are_starting_points(tmp_path: Path) -> None:
    path = tmp_path / "named.yaml"
    path.write_text(
        """
name: named
attackers:
  - {name: plain, attack: dlg}
  - {name: changed, attack: {name: inverting_gradients, iterations: 50, objective: {kind: l2}}}
  - {name: default, attack: {iterations: 7}}
  - name: all
    families:
      dlg: {attack: dlg, search: {iterations: {kind: int, low: 10, high: 20}}}
      ours: {attack: {name: matching, lr: 0.2}}
"""
    )
    loaded = load_sweep(path, ["attackers.0.attack.iterations=9", "attackers.2.attack=idlg"])
    plain, changed, default = (attacker.attack for attacker in loaded.attackers[:3])
    both = loaded.attackers[3].families
    assert to_plain(plain) == to_plain(NAMED["dlg"]) | {"iterations": 9}
    assert to_plain(changed) == to_plain(NAMED["inverting_gradients"]) | {
        "iterations": 50,
        "objective": {"kind": "l2"},
    }
    assert default == NAMED["idlg"]
    assert both["dlg"].attack == NAMED["dlg"]
    assert to_plain(both["ours"].attack) == to_plain(Matching(lr=0.2))


@pytest.mark.parametrize(
    ("attacker", "message"),
    [
        ({"attack": "dgl"}, "attackers.0.attack: Unknown attack 'dgl'. Did you mean 'dlg'?"),
        ({"attack": {"name": "dlg", "kind": "matching"}}, "must have a name or a kind, not both"),
        ({"attack": {"name": "dlg", "iteration": 5}}, "unknown key 'attackers.0.attack.iteration'"),
        ({"families": {"a": {"attack": "dgl"}}}, "attackers.0.families.a.attack: Unknown attack 'dgl'"),
        ({"families": {"a.b": {}}}, "named with letters, digits, _ and -"),
        ({"families": {"a": {}}, "attack": "dlg"}, "must be without 'attack' and 'search' beside it"),
        (
            {"families": {"a": {"search": {"lrr": {"kind": "float", "low": 1, "high": 2}}}}},
            "attackers.x.families.a.search: unknown key 'lrr'. Did you mean 'lr'? This attack has iterations, ",
        ),
    ],
)
def test_mistakes_in_families_are_one_line(tmp_path: Path, attacker: dict[str, Any], message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(json.dumps({"name": "bad", "attackers": [{"name": "x"} | attacker]}))
    with pytest.raises(InputError) as caught:
        load_sweep(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
