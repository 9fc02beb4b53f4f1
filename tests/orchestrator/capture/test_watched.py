"""Sweeps that watch a client for several rounds: what is kept, what it costs in privacy, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from defenses.chain import Chain
from defenses.dp.central import DPCentral
from defenses.dp.local import DPUpdate
from defenses.mechanism.noise import NoiseOnly
from fl_core.base.errors import InputError
from fl_core.data.dataset import ImageDataset
from fl_core.federation.rounds import FederationConfig
from orchestrator.analysis.summary import read_trials, summary_lines
from orchestrator.capture.files import load_record, save_capture
from orchestrator.config.sweep import CaptureConfig
from orchestrator.io.files import Damaged
from orchestrator.io.identity import canonical
from orchestrator.report.notes import notes
from tests.support.small import run, sweep
from tests.support.watched import recorded

DP = {"kind": "dp_update", "epsilon": 1e5, "max_norm": 0.05, "budget": "release"}
CELLS = [
    {"name": "one", "defense": [DP], "differs": {"capture.watched": 1}},
    {"name": "three", "defense": [DP], "differs": {"capture.watched": 3}},
]
ATTACKERS = [
    {"name": "auto", "attack": {"kind": "auto", "analytic": {"inversion": {"evaluations": 30}}}},
    {"name": "exact", "attack": {"kind": "convolutions", "fallback": {"iterations": 2}}},
]


def settings(root: Path, **changes: Any) -> Any:
    plain: dict[str, Any] = {
        "federation__rounds": 4,
        "federation__local": {"lr": 0.05, "momentum": 0.0},
        "capture": {"signal": "one_step_update", "weights": "defended"},
        "victims": {"tuning": 0, "test": 2},
        "cells": CELLS,
        "attackers": ATTACKERS,
    }
    return sweep(root, **(plain | changes))


@pytest.mark.slow
def test_a_sweep_tells_what_watching_adds_beside_the_composed_epsilon(
    faces_root: Path, tmp_path: Path
) -> None:
    config = settings(faces_root)
    run(config, tmp_path / "out")
    rows = read_trials(tmp_path / "out")
    assert (rows["status"] == "ok").all()
    assert dict(rows.groupby("cell")["watched"].first()) == {"one": 1, "three": 3}
    spent = rows.groupby("cell")["epsilon_watched"].first()
    assert spent["one"] == rows["epsilon_release"].iloc[0] < spent["three"] < rows["epsilon"].iloc[0]
    lines = summary_lines(tmp_path / "out")
    assert {(line.cell, line.watched) for line in lines} == {("one", 1), ("three", 3)}
    said = "\n".join(notes(lines))
    assert (
        f"three: the same images were seen in 3 rounds, which spend epsilon {spent['three']:.3g} together"
        in said
    )
    assert "one: the same images" not in said
    kept = sorted((tmp_path / "out").rglob("record.json"))
    written = len(rows)
    run(config, tmp_path / "out")
    assert len(read_trials(tmp_path / "out")) == written
    assert sorted((tmp_path / "out").rglob("record.json")) == kept


def test_a_capture_of_several_rounds_is_read_as_it_was_written(faces: ImageDataset, tmp_path: Path) -> None:
    record, truth = recorded(faces, "mlp", rounds=3, sigma=0.01)
    save_capture(tmp_path / "one", record, truth, weights="w", version=1)
    bare = replace(
        record,
        updates=(),
        later=tuple(replace(each, updates=()) for each in record.later),
    )
    found = load_record(tmp_path / "one", bare, weights="w", version=1)
    for mine, theirs in zip((record, *record.later), (found, *found.later), strict=True):
        assert mine.round == theirs.round
        assert mine.updates[0].examples == theirs.updates[0].examples
        for name, value in mine.updates[0].tensors.items():
            assert torch.equal(value, theirs.updates[0].tensors[name])
    with pytest.raises(Damaged, match="it holds 2 later rounds, not 0"):
        load_record(tmp_path / "one", replace(bare, later=()), weights="w", version=1)


def test_rounds_compose() -> None:
    plan = FederationConfig(rounds=6)
    chain = Chain(defenses=(DPUpdate(epsilon=3.0, budget="release"),))
    statement = chain.privacy(plan)
    assert statement is not None
    spent = [chain.epsilon_of(plan, rounds) for rounds in range(1, 7)]
    assert spent[0] == statement.epsilon_release == 3.0
    assert spent[-1] == statement.epsilon
    assert spent == sorted(spent)  # type: ignore[type-var]
    # As if so many rounds had been planned, at the same noise of each.
    for rounds in (2, 5):
        planned = chain.privacy(replace(plan, rounds=rounds))
        assert planned is not None
        assert spent[rounds - 1] == pytest.approx(planned.epsilon, rel=1e-6)


@pytest.mark.parametrize("defense", [NoiseOnly(), DPCentral(epsilon=3.0)], ids=lambda each: each.kind)
def test_no_statement_about_single_updates_composes_to_none(defense: Any) -> None:
    assert Chain(defenses=(defense,)).epsilon_of(FederationConfig(), 2) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"signal": "local_update"},
            r"CaptureConfig\.signal = 'local_update': must be gradients or one_step_update",
        ),
        ({"weights": "undefended"}, r"CaptureConfig\.weights = 'undefended': must be defended"),
        ({"watched": 0}, r"CaptureConfig\.watched = 0: must be at least 1"),
    ],
    ids=["signal", "weights", "none"],
)
def test_a_capture_that_cannot_be_watched_is_refused(changes: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        CaptureConfig(**({"signal": "gradients", "weights": "defended", "watched": 3} | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"federation__rounds": 2}, r"capture\.watched = 3: the federation has 2 rounds from round 0 on"),
        ({"federation__flip": True}, r"does not go with federation\.flip: true, which mirrors images anew"),
        (
            {"federation__local": {"momentum_state": "persistent"}},
            r"does not go with federation\.local\.momentum_state: persistent",
        ),
        (
            {"cells": [{"name": "m", "defense": [{"kind": "mixup"}], "differs": {"capture.watched": 2}}]},
            r"capture\.watched = 2 does not go with mixup, which has the client train on other images",
        ),
        (
            {
                "cells": [
                    {
                        "name": "p",
                        "defense": [{"kind": "prune", "ratio": 0.5, "error_feedback": True}],
                        "differs": {"capture.watched": 2},
                    }
                ]
            },
            r"does not go with error_feedback",
        ),
        (
            {"cells": [{"name": "s", "defense": [{"kind": "masking"}], "differs": {"capture.watched": 2}}]},
            r"does not go with a secure sum",
        ),
    ],
    ids=["rounds", "flip", "momentum", "mixup", "feedback", "sum"],
)
def test_a_sweep_that_cannot_watch_is_refused(
    faces_root: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run(settings(faces_root, **changes), tmp_path / "out")


def test_old_settings_keep_their_identity() -> None:
    assert "watched" not in canonical(CaptureConfig())
