"""Sweep files: every mistake is one line that names the place."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attack_core.gradients.objectives import Both, Cosine
from attack_core.matching.matching import Matching
from fl_core.base.errors import InputError
from orchestrator.config.parse import cell_settings, load_sweep, with_params
from orchestrator.config.plain import build, to_plain
from orchestrator.config.sweep import SweepConfig
from tests.support.paths import ROOT

TEXT = """
name: demo
federation: {local: {lr: 1e-2}}
study: {suggestions: 3}
cells:
  - {name: none}
  - {name: dp, defense: [{kind: dp_update, epsilon: 8, delta: 1e-5}], differs: {federation.rounds: 3}}
attackers:
  - name: generic
    attack: {kind: matching, objective: {kind: cosine}}
    search:
      lr: {kind: float, low: 1e-3, high: 1, log: true}
      objective.kind: {kind: choice, choices: [l2, cosine]}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "demo.yaml"
    path.write_text(TEXT)
    return path


def test_a_sweep_file_becomes_typed_settings(file: Path) -> None:
    sweep = load_sweep(file, ["seed=7", "study.suggestions=5", "cells.1.defense.0.epsilon=2"])
    assert sweep.federation.local.lr == 0.01, "1e-2 is a number in YAML 1.2"
    assert (sweep.seed, sweep.study.suggestions) == (7, 5)
    assert sweep.cells[1].defense[0].epsilon == 2.0
    assert sweep.attackers[0].attack.objective == Cosine()
    assert cell_settings(sweep, sweep.cells[0]).federation.rounds == 5
    assert cell_settings(sweep, sweep.cells[1]).federation.rounds == 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("study.sugestions=3", "unknown key 'study.sugestions'. Did you mean 'suggestions'?"),
        ("study.lag=x", 'study.lag = "x": must be a whole number.'),
        ("study.lag=0", "StudyConfig.lag = 0: must be at least 1"),
        ("study.lag=1.5", "study.lag = 1.5"),
        ("cells.1.defense.0.epsilon=-1", "DPUpdate.epsilon = -1.0: must be finite and more than 0"),
        ("cells.1.defense.0.kind=dq", 'kind = "dq": must be one of \''),
        ("model.kind=cnn65", "must be one of 'cnn64', 'lenet', 'mlp', 'resnet18'"),
        ("attackers.0.attack.lr=fast", 'attackers.0.attack.lr = "fast"'),
        ("attackers.0.attack.objective={kind: l3}", "must be one of 'both', 'cosine', 'l2', 'signs', 'sim'"),
        ("attackers.0.attack.objective={kind: l2, l2_weight: 1}", "unknown key"),
        ("attackers.0.search.lrr={kind: float, low: 1, high: 2}", "unknown key 'lrr'. Did you mean 'lr'?"),
        ("attackers.0.search.lr.low=-1", "more than 0 on a logarithmic scale"),
        ("attackers.0.search.restarts={kind: int, low: 0, high: 2}", "Matching.restarts = 0"),
        (
            "attackers.0.search.init={kind: choice, choices: [normal, foo]}",
            "init = 'foo' does not fit the attack",
        ),
        ("cells.1.differs={federation.local.foo: 3}", "cells.dp.differs: unknown key 'federation.local.foo'"),
        ("cells.1.differs={study.suggestions: 3}", "must be paths into"),
        ("cells.9.name=x", "'9' must be a list position from 0 to 1"),
        ("cells=[]", "must be at least one"),
        ("cells.1.name=none", "entries with different names"),
        ("cells.1.name=a/b", "names of letters, digits"),
        ("victims.tuning=0", "tuning >= 1 where a search is given"),
        ("utility={train: 10}", "UtilityConfig.train = 10: must be at least 1000"),
        ("federation.fraction=0", "FederationConfig.fraction = 0.0: must be in (0, 1]"),
        ("federation.partition={kind: dirichlet, alpha: 0}", "Dirichlet.alpha = 0.0: must be more than 0"),
        ("model.image_size=7", "image_size = 7"),
        ("seed", "must be key=value"),
    ],
)
def test_mistakes_are_one_line_with_place_value_and_remedy(file: Path, override: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        load_sweep(file, [override])
    text = str(caught.value)
    assert message in text
    assert "\n" not in text


def test_a_file_may_hold_smaller_forms_of_itself(file: Path) -> None:
    scales = "scales: {small: {study.suggestions: 1, cells.1.defense.0.epsilon: 4, victims.test: 2}, tiny: {seed: 1}}"
    file.write_text(TEXT + scales)
    plain, small = load_sweep(file), load_sweep(file, ["study.suggestions=2", "scale=small"])
    assert (plain.study.suggestions, plain.victims.test) == (3, 16)
    assert (small.study.suggestions, small.victims.test) == (2, 2), "what is set by hand comes last"
    assert small.cells[1].defense[0].epsilon == 4.0
    file.write_text(f"{TEXT}{scales}\nscale: tiny")
    assert load_sweep(file).seed == 1
    assert load_sweep(file, ["scale=null"]) == plain
    with pytest.raises(InputError, match=r"Unknown scale 'smal'. Did you mean 'small'\? Known: small, tiny"):
        load_sweep(file, ["scale=smal"])
    file.write_text(TEXT + "scales: [small]")
    with pytest.raises(InputError, match="scales must map each name"):
        load_sweep(file)


@pytest.mark.parametrize("text", ["{", "- a", "a: b: c", "3", "name: [", "name: a\nname: b\n"])
def test_text_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"bad\.yaml"):
        load_sweep(path)


def test_a_missing_file_and_one_with_objects_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Cannot read the sweep file"):
        load_sweep(tmp_path / "absent.yaml")
    path = tmp_path / "objects.yaml"
    path.write_text("name: !!python/object/apply:os.system [echo]\n")
    with pytest.raises(InputError):
        load_sweep(path)


@given(
    iterations=st.integers(1, 10**6),
    lr=st.one_of(st.floats(1e-6, 1e3), st.tuples(st.floats(1e-6, 1.0), st.floats(1e-6, 1.0))),
    clamp=st.one_of(st.none(), st.floats(0.1, 9)),
    weights=st.sampled_from(["uniform", "auto", (1.0, 2.0)]),
)
@settings(max_examples=50, deadline=None)
def test_configs_survive_the_way_to_json_and_back(
    iterations: int, lr: object, clamp: object, weights: object
) -> None:
    attack = Matching(
        iterations=iterations,
        restarts=2,
        lr=lr,
        clamp=clamp,
        layer_weights=weights,
        objective=Both(l2_weight=2.0),  # type: ignore[arg-type]
    )
    assert build(Matching, to_plain(attack), where="test") == attack


def test_searched_parameters_land_at_their_paths() -> None:
    attack = with_params(Matching(), {"lr": 0.5, "objective.kind": "cosine", "layer_weights": "early"})
    assert (attack.lr, attack.objective, attack.layer_weights) == (0.5, Cosine(), "early")


def test_the_shipped_sweeps_are_valid() -> None:
    files = sorted((ROOT / "sweeps").rglob("*.yaml"))
    assert files
    for path in files:
        config = load_sweep(path)
        assert isinstance(config, SweepConfig)
        data, utility = config.data, config.utility
        if data.kind in ("auto", "synthetic"):
            # Who has no CelebA has synthetic faces: six of eight to train on, one to validate, one to be public.
            train = max(data.train or 1, utility.train if utility else 1)
            assert max(train / 6, data.valid or 1) <= data.synthetic_images / 8, path


def test_an_override_of_a_cell_leaves_its_other_differences_alone(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(
        "name: s\nmodel: {kind: mlp}\ncells:\n  - {name: one, differs: {capture.signal: one_step_update}}\n"
    )
    sweep = load_sweep(path, ["cells.0.differs.capture.round=1"])
    assert dict(sweep.cells[0].differs) == {"capture.signal": "one_step_update", "capture.round": 1}
    own = cell_settings(sweep, sweep.cells[0]).capture
    assert (own.signal, own.round) == ("one_step_update", 1)


def test_a_group_behind_its_own_setting_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(
        "name: s\ncells:\n  - {name: one, differs: {capture.signal: one_step_update, capture: {round: 1}}}\n"
    )
    with pytest.raises(InputError, match=r"'capture' stands behind 'capture.signal'"):
        load_sweep(path)
