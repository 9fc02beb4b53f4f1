"""The suites: every file is there, and every run is the original's by its flags."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attack_core.matching.matching import Matching
from fl_core.base.errors import InputError
from orchestrator.analysis.intervals import FEWEST
from orchestrator.cli.experiment import parse
from orchestrator.config.parse import cell_settings, load_sweep
from orchestrator.suites.catalog import FOLDER, SUITES, suite_of, sweep_file

COMMON = "--num-rounds 1 --capture-round 0 --client-momentum 0 --lr-schedule cosine --compute-lpips"
SHOWCASE = "--attack-iterations 4500 --attack-restarts 5 --tv-weight 1e-5"
BENCHMARK = "--attack-iterations 3000 --attack-restarts 3 --tv-weight 1e-5"
ABLATION = "--attack-iterations 2000 --attack-restarts 3 --tv-weight"
BASE = "--attack-iterations 3000 --attack-restarts 2 --tv-weight"
PHASE = "--attack-iterations 3000 --attack-restarts 5 --tv-weight"
LARGER = "--attack-iterations 4000 --attack-restarts 7 --tv-weight"
TRAINED = "--num-rounds 5 --capture-round 4"

RUNS: dict[tuple[str, str, str], str] = {
    ("original/showcase", "none", "original"): SHOWCASE,
    ("original/benchmark", "none", "original"): BENCHMARK,
    **{
        ("original/multi_client", f"bmk_c{client}", "original"): f"{BENCHMARK} --capture-client {client}"
        for client in range(10)
    },
    **{
        ("original/defenses", cell, "original"): f"{SHOWCASE} --capture-client 1 {defense}"
        for cell, defense in {
            "baseline": "",
            "dp_eps8": "--dp-epsilon 8",
            "dp_eps1": "--dp-epsilon 1",
            "dp_eps01": "--dp-epsilon 0.1",
            "he": "--use-he",
            "dp_he": "--dp-epsilon 1 --use-he",
        }.items()
    },
    **{
        ("original/ablation", f"c{client}", name): f"{ABLATION} {setting} --capture-client {client}"
        for client in (0, 3, 7)
        for name, setting in {
            "tv_1e-5": "1e-5",
            "tv_1e-6": "1e-6",
            "tv_1e-4": "1e-4",
            "fft_init": "1e-5 --fft-init",
            "metric_cosine": "1e-5 --match-metric cosine",
            "metric_both": "1e-5 --match-metric both",
            "metric_sim": "1e-5 --match-metric sim",
        }.items()
    },
    (
        "original/base/quick",
        "none",
        "original",
    ): "--attack-iterations 2000 --attack-restarts 3 --tv-weight 1e-6",
    (
        "original/base/showcase",
        "none",
        "original",
    ): "--attack-iterations 5000 --attack-restarts 15 --tv-weight 1e-6",
    ("original/base/ablation", "optimal", "original"): f"{BASE} 1e-6",
    ("original/base/ablation", "after_5_rounds", "original"): f"{BASE} 1e-6 {TRAINED}",
    ("original/base/ablation", "momentum_09", "original"): f"{BASE} 1e-6 --client-momentum 0.9",
    ("original/base/batch", "none", "original"): f"{BASE} 1e-5 --batch-size 2 --attack-batch 2",
    (
        "original/base/realistic",
        "none",
        "original",
    ): "--attack-iterations 2000 --attack-restarts 2 --tv-weight 1e-4 "
    f"{TRAINED} --batch-size 4 --attack-batch 4 --client-momentum 0.9 --early-stop --patience 600",
    **{("original/phase1/tv-sweep", "none", f"tv_{tv}"): f"{PHASE} {tv}" for tv in ("1e-6", "1e-5", "1e-4")},
    **{
        ("original/phase1/layer-weights", "none", mode): f"{PHASE} 1e-5 --layer-weights {mode}"
        for mode in ("uniform", "auto", "early", "early_linear", "early_strong", "early_conv")
    },
    **{
        ("original/phase1/combinations", "none", f"tv_{tv}_{mode}"): f"{LARGER} {tv} --layer-weights {mode}"
        for tv, mode in (
            ("1e-5", "early"),
            ("1e-5", "early_linear"),
            ("1e-4", "early_strong"),
            ("1e-5", "early_conv"),
        )
    },
    ("original/phase1/perceptual", "none", "plain"): f"{PHASE} 1e-5",
}
"""The original's runs by sweep file, cell and attacker, as flags of `run_experiment.py`; the attack counts images."""
OURS = {
    *(
        ("original/defenses", cell, "adaptive")
        for cell in ("baseline", "dp_eps8", "dp_eps1", "dp_eps01", "he", "dp_he")
    ),
    ("original/phase1/perceptual", "none", "perceptual"),
}
"""Runs that the original has not."""


def test_every_run_is_the_originals_or_named_as_ours() -> None:
    found = set()
    for part in {part for suite in SUITES.values() for part in suite.parts if part.startswith("original/")}:
        sweep = load_sweep(sweep_file(part))
        found |= {(part, cell.name, who.name) for cell in sweep.cells for who in sweep.attackers}
    assert found == RUNS.keys() | OURS


@pytest.mark.parametrize("part", sorted({part for part, _, _ in RUNS}))
def test_runs_are_those_of_the_originals_flags(part: str) -> None:
    sweep = load_sweep(sweep_file(part))
    for (_, cell, who), flags in {key: flags for key, flags in RUNS.items() if key[0] == part}.items():
        expected = parse(f"{COMMON} {flags}".split()).sweep()
        (found,) = (cell_settings(sweep, each) for each in sweep.cells if each.name == cell)
        (attacker,) = (each for each in sweep.attackers if each.name == who)
        assert replace(found.model, classes=2) == expected.model, f"{part} {cell}"
        for group in ("seed", "data", "federation", "capture", "threat", "victims", "execution"):
            assert getattr(found, group) == getattr(expected, group), f"{part} {cell}: {group}"
        assert found.cell.defense == expected.cell.defense, f"{part} {cell}"
        attack = expected.attackers[0].attack
        assert isinstance(attack, Matching)
        assert attacker.attack == replace(attack, images=None), f"{part} {cell} {who}"


def test_the_originals_attacker_knows_nothing_of_a_defense() -> None:
    facts = {
        attacker.name: attacker.uses_facts
        for attacker in load_sweep(sweep_file("original/defenses")).attackers
    }
    assert facts == {"original": False, "adaptive": True}


def test_every_file_is_a_suites_and_has_a_small_form() -> None:
    parts = {part for suite in SUITES.values() for part in suite.parts}
    files = {
        path.relative_to(FOLDER).with_suffix("").as_posix() for path in (FOLDER / "original").rglob("*.yaml")
    }
    assert files == parts - {"realism"}
    for part in parts:
        whole, small = (load_sweep(sweep_file(part), overrides) for overrides in ([], ["scale=small"]))
        assert small.model.image_size == 16
        for before, after in zip(whole.attackers, small.attackers, strict=True):
            assert after.attack.cost(1) < before.attack.cost(1) / 10, f"{part}: {after.name}"


@pytest.mark.parametrize("part", sorted({part for suite in SUITES.values() for part in suite.parts}))
def test_the_header_asks_a_question_and_says_what_it_costs(part: str) -> None:
    header = sweep_file(part).read_text(encoding="utf-8").partition("\nname:")[0]
    assert "?" in header.splitlines()[0] + header.splitlines()[1]
    assert "\n# Cost: about " in header


def test_modes_choose_parts() -> None:
    base, phase1 = suite_of("base"), suite_of("phase1")
    assert base.chosen(None) == base.chosen("all") == base.parts
    assert set(base.chosen("showcase")) | set(base.chosen("ablation")) == set(base.parts)
    assert {part for mode in phase1.modes.values() for part in mode} == set(phase1.parts)
    with pytest.raises(InputError, match="Did you mean 'tv-sweep'"):
        phase1.chosen("tv_sweep")
    with pytest.raises(InputError, match="showcase has no modes"):
        suite_of("showcase").chosen("all")
    with pytest.raises(InputError, match="Did you mean 'multi_client'"):
        suite_of("multiclient")


@pytest.mark.parametrize("part", ["realism", "batch", "models"])
def test_the_medium_form_is_cheaper_and_has_enough_victims_for_an_interval(part: str) -> None:
    whole, medium = (load_sweep(sweep_file(part), overrides) for overrides in ([], ["scale=medium"]))
    assert medium.victims.test >= FEWEST
    for before, after in zip(whole.attackers, medium.attackers, strict=True):
        assert after.attack != before.attack, after.name
