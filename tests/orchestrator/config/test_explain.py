"""What a wrong setting is told: the hint comes from the place that was meant, in a person's words, on one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from fl_core.base.errors import LONGEST, InputError, nearest, one_line
from orchestrator.config.parse import load_sweep

TEXT = """
name: demo
cells:
  - {name: none}
  - {name: dp, defense: [{kind: dp_update, epsilon: 8}]}
attackers:
  - {name: generic, attack: {kind: matching}, search: {lr: {kind: float, low: 1e-3, high: 1}}}
"""


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "cells.1.defense.0.eps=1",
            "unknown key 'cells.1.defense.0.eps'. Did you mean 'epsilon'? Known here: ep",
        ),
        (
            "cells.1.defense.0={kind: noise, sgima: 1}",
            "Did you mean 'sigma'? Known here: kind, distribution, sigma.",
        ),
        ("cells.1.defense.0={epsilon: x}", "cells.1.defense.0.kind is missing: must be one of 'ats', 'ckks'"),
        (
            "cells.1.defense={kind: noise}",
            'cells.1.defense = {"kind": "noise"}: must be a list, with [ ] around it.',
        ),
        ("cells.1.defense.0=noise", 'cells.1.defense.0 = "noise": must be a mapping with a kind: one of'),
        ("attackers=[auto]", "attackers.0 = 'auto': must be a mapping, such as {name: auto, attack: auto}."),
        ("attackers=auto", 'attackers = "auto": must be a list'),
        (
            "attackers.0.search={learning_rate: {kind: float, low: 1, high: 2}}",
            "unknown key 'learning_rate'. Did you",
        ),
        (
            "attackers.0.search={learning_rate: {kind: float, low: 1, high: 2}}",
            "'lr'? This attack has iterations,",
        ),
        ("attackers.0.search.lr.kind=flot", "must be one of 'choice', 'float', 'int'. Did you mean 'float'?"),
        ("attackers.0.attack.lr=x", 'attackers.0.attack.lr = "x": must be a number or a list'),
        ("attackers.0.attack.lr=[0.1, x]", 'attackers.0.attack.lr.1 = "x": must be a number.'),
        ("attackers.0.attack.init=norml", "Did you mean 'normal'?"),
        ("attackers.0.attack.early_stop=true", "must be a mapping with keys among patience, min_delta."),
        (
            "attackers.0.attack.local={kind: simulated, lrr: 3}",
            "Did you mean 'lr'? Known here: kind, lr, momentum",
        ),
        (
            "attackers.0.attack={name: auto, fallback: {lrr: 2}}",
            "0.attack.fallback.lrr'. Did you mean 'lr'?",
        ),
        ("model=3", "model = 3: must be a mapping with keys among kind, classes,"),
        ("scale=tiny", "this file has no scales to choose from"),
        ("scale={1: 2}", "scale must be the name of one of the file's scales"),
        ("cells.1.name=none", "cells: 2 entries have the name 'none'"),
        ("cells.².name=x", "--set cells.².name: '²' must be a list position from 0 to 1."),
        ("cells.٣.name=x", "'٣' must be a list position"),
        ("seed=100000000000000000000", "seed: must be a whole number of less than 19 digits"),
        (
            "attackers.0.attack.restarts=1000000000000000000",
            "restarts = 1000000000000000000: must be from 1 to",
        ),
        (
            "model.image_size=8000",
            "ModelConfig.image_size = 8000: must be from 8 to 4096",
        ),
        (
            "federation.clients=1000000000",
            "FederationConfig.clients = 1000000000: must be from 1 to 10,000,000",
        ),
    ],
)
def test_the_hint_is_that_of_the_setting_that_was_meant(tmp_path: Path, override: str, message: str) -> None:
    path = tmp_path / "demo.yaml"
    path.write_text(TEXT)
    with pytest.raises(InputError) as caught:
        load_sweep(path, [override])
    assert message in str(caught.value)
    assert len(str(caught.value)) <= LONGEST


@pytest.mark.parametrize(
    "setting",
    [
        *(
            "federation.local.lr",
            "federation.local.momentum",
            "federation.fraction",
            "study.seconds",
            "study.prune",
        ),
        *("attackers.0.attack.lr", "attackers.0.attack.tv_weight", "attackers.0.attack.clamp"),
        *("attackers.0.attack.init_std", "cells.1.defense.0.epsilon", "cells.1.defense.0.max_norm"),
        *("execution.gpus_per_trial", "attackers.0.search.lr.high", "cells.1.differs.federation"),
    ],
)
@pytest.mark.parametrize("number", [".inf", "-.inf", ".nan", "1e400"])
def test_every_number_must_be_finite(tmp_path: Path, setting: str, number: str) -> None:
    path = tmp_path / "demo.yaml"
    path.write_text(TEXT)
    with pytest.raises(InputError, match=rf"{setting} = (-?inf|nan): must be a finite number"):
        load_sweep(path, [f"{setting}={number}"])


def test_a_line_is_cut_in_its_middle_and_shows_what_a_terminal_does_not() -> None:
    text = one_line("where: " + "x" * 10_000 + "\n: must be\x1b[31m this.\r\n")
    assert len(text) <= LONGEST
    assert text.startswith("where: xxx")
    assert text.endswith("x : must be\\x1b[31m this.")
    assert one_line(text) == text
    assert len(one_line("\x00" * 10_000)) <= LONGEST


def test_the_nearest_name_is_found_by_letters_by_its_last_part_and_by_its_initials() -> None:
    assert nearest("epsilonn", ["epsilon", "delta"]) == "epsilon"
    assert nearest("lr", ["analytic.fallback.lr", "fallback.lr"]) == "fallback.lr"
    assert nearest("learning_rate", ["iterations", "early_stop", "lr"]) == "lr"
    assert nearest("x" * 10_000, ["lr"]) is None
    assert nearest("rho", ["epsilon", "delta"]) is None
