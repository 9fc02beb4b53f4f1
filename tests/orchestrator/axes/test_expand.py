"""Axes: the product, `include` and `exclude` as GitHub Actions' matrix has them, and the same cells as by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from defenses.mechanism.own import OwnDefense
from fl_core.base.errors import InputError
from orchestrator.axes.expand import MOST_CELLS
from orchestrator.config.parse import cell_settings, load_sweep, sweep_tree
from orchestrator.config.sweep import SweepConfig
from orchestrator.io.identity import content_hash
from tests.support.command import gradsweep
from tests.support.own import write_own
from tests.support.small import comparable, run_quietly, tree

AXES = """
name: product
federation: {rounds: 4}
axes:
  model.kind: [cnn64, lenet]
  federation.local.batch_size: [1, 4]
  defense:
    none: none
    dp8: {kind: dp_update, epsilon: 8}
"""


def load(folder: Path, text: str = AXES, *overrides: str) -> SweepConfig:
    path = folder / "sweep.yaml"
    path.write_text(text)
    return load_sweep(path, overrides)


def names(sweep: SweepConfig) -> list[str]:
    return [cell.name for cell in sweep.cells]


def test_cells_are_the_product_with_the_first_axis_slowest(tmp_path: Path) -> None:
    sweep = load(tmp_path)
    assert names(sweep) == [
        f"{model}_{batch}_{defense}"
        for model in ("cnn64", "lenet")
        for batch in ("batch-size-1", "batch-size-4")
        for defense in ("none", "dp8")
    ]
    last = cell_settings(sweep, sweep.cells[-1])
    assert (last.model.kind, last.federation.local.batch_size, last.federation.rounds) == ("lenet", 4, 4)
    assert [defense.label for defense in last.cell.defense] == ["dp_update"]


def test_a_cell_differs_where_its_value_is_not_the_common_one(tmp_path: Path) -> None:
    """Else no cell could be compared with the undefended one."""
    differs = {cell.name: dict(cell.differs) for cell in load(tmp_path).cells}
    assert differs["cnn64_batch-size-1_dp8"] == {}
    assert differs["lenet_batch-size-4_dp8"] == {"model.kind": "lenet", "federation.local.batch_size": 4}
    common = load(tmp_path, AXES + "model: {kind: lenet}\n").cells
    assert dict(common[0].differs) == {"model.kind": "cnn64"}
    assert common[-2].differs == {"federation.local.batch_size": 4}


def test_exclude_removes_the_combinations_that_match(tmp_path: Path) -> None:
    whole = names(load(tmp_path))
    by_name = load(tmp_path, AXES + "  exclude: [{model.kind: lenet, defense: dp8}]\n")
    by_value = load(
        tmp_path, AXES + "  exclude: [{model.kind: lenet, defense: {kind: dp_update, epsilon: 8.0}}]\n"
    )
    assert names(by_name) == [
        name for name in whole if not (name.startswith("lenet") and name.endswith("dp8"))
    ]
    assert by_name == by_value
    assert names(load(tmp_path, AXES + "  exclude: [{federation.local.batch_size: 4}]\n")) == [
        name for name in whole if "size-4" not in name
    ]


def test_include_adds_settings_to_the_combinations_that_match(tmp_path: Path) -> None:
    sweep = load(tmp_path, AXES + "  include: [{model.kind: lenet, federation.local.lr: 0.5}]\n")
    assert names(sweep) == names(load(tmp_path))
    rates = {cell.name: cell.differs.get("federation.local.lr") for cell in sweep.cells}
    assert all((rate == 0.5) == name.startswith("lenet") for name, rate in rates.items())


def test_include_adds_cells(tmp_path: Path) -> None:
    more = """  include:
    - {model.kind: mlp, defense: dp8}
    - {name: wide, model.image_size: 32, defense: [{kind: clip, max_norm: 1}]}
    - {name: again, model.kind: lenet}
"""
    sweep = load(tmp_path, AXES + more)
    assert names(sweep) == [*names(load(tmp_path)), "mlp_dp8", "wide", "again"]
    mlp, wide, again = sweep.cells[-3:]
    assert (dict(mlp.differs), len(mlp.defense)) == ({"model.kind": "mlp"}, 1)
    assert (dict(wide.differs), wide.defense[0].label) == ({"model.image_size": 32}, "clip")
    assert (dict(again.differs), again.defense) == ({"model.kind": "lenet"}, ())


def test_settings_that_go_together_are_an_axis_of_a_name_of_your_own(tmp_path: Path) -> None:
    text = """
name: bundle
axes:
  scene:
    easy: {model.kind: lenet, federation.local.batch_size: 1}
    hard: {model.kind: cnn64, federation.local.batch_size: 8, defense: [{kind: ckks}]}
  capture.signal: [gradients, one_step_update]
"""
    sweep = load(tmp_path, text)
    assert names(sweep) == [f"{s}_{g}" for s in ("easy", "hard") for g in ("gradients", "one-step-update")]
    hard = sweep.cells[-1]
    assert dict(hard.differs) == {"federation.local.batch_size": 8, "capture.signal": "one_step_update"}
    assert hard.defense[0].label == "ckks"


def test_a_defenses_setting_is_an_axis(tmp_path: Path) -> None:
    text = """
name: strength
axes:
  defense: {noise: [{kind: clip, max_norm: 1}, {kind: noise}], none: none}
  defense.1.sigma: [0.01, 0.1]
  exclude: [{defense: none}]
  include: [{name: none}]
"""
    sweep = load(tmp_path, text)
    assert names(sweep) == ["noise_sigma-0.01", "noise_sigma-0.1", "none"]
    assert [cell.defense[1].sigma for cell in sweep.cells[:2]] == [0.01, 0.1]
    with pytest.raises(
        InputError, match=r"cell none_sigma-0.01: must lead to a setting of one of this cell's 0 def"
    ):
        load(tmp_path, text.replace("  exclude: [{defense: none}]\n", ""))
    with pytest.raises(
        InputError, match=r"cell \S+: axes defense\.0\.max_norm\.x: defense\.0\.max_norm is a value"
    ):
        load(tmp_path, text.replace("defense.1.sigma: [0.01, 0.1]", "defense.0.max_norm.x: [1]"))


def test_cells_and_axes_together(tmp_path: Path) -> None:
    both = load(
        tmp_path, AXES + "cells: [{name: first}, {name: clip, defense: [{kind: clip, max_norm: 1}]}]\n"
    )
    assert names(both) == ["first", "clip", *names(load(tmp_path))]
    with pytest.raises(InputError, match="2 entries have the name 'lenet_batch-size-4_none'"):
        load(tmp_path, AXES + "cells: [{name: lenet_batch-size-4_none}]\n")


def test_a_name_is_the_same_whatever_stands_beside_it(tmp_path: Path) -> None:
    """Else a value that is added would rename cells with results."""
    more = load(tmp_path, AXES, "axes.federation.local.batch_size=[4, 8, 1]", "axes.model.kind=[mlp, lenet]")
    assert {"lenet_batch-size-4_none", "lenet_batch-size-1_dp8"} <= set(names(more))


def test_overrides_reach_axes(tmp_path: Path) -> None:
    changed = load(tmp_path, AXES, "axes.model.kind=null", "axes.defense.dp8=null", "axes.capture.round=[3]")
    assert names(changed) == [f"batch-size-{b}_{d}_round-3" for b in (1, 4) for d in ("none", "dp8")]
    assert all(not cell.defense for cell in changed.cells), "null is a value like none"
    assert names(load(tmp_path, AXES, "axes=null")) == ["none"]
    assert len(names(load(tmp_path, AXES, "axes.exclude=[{defense: dp8}]"))) == 4
    small = AXES + "scales: {small: {axes.model.kind: [lenet], axes.federation.local.batch_size: [1]}}\n"
    assert names(load(tmp_path, small, "scale=small")) == [
        "lenet_batch-size-1_none",
        "lenet_batch-size-1_dp8",
    ]


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("federation.local.batch_size=3", "is an axis of this sweep; give its values with axes.federation"),
        (
            "axes.federation.roundz=[1]",
            "no setting is at 'federation.roundz'. Did you mean 'federation.rounds'?",
        ),
        ("axes.rounds=[1]", "axes.rounds: is no setting. Did you mean 'federation.rounds'?"),
        ("axes.model={kind: [lenet]}", "write model.kind: [...] under axes"),
        ("axes.study.lag=[1, 2]", "cells cannot differ in 'study'"),
        ("axes.seed=[1, 2]", "cells cannot differ in 'seed'"),
        ("axes.attackers=[dlg]", "every attacker meets every cell already"),
        ("axes.capture.round=3", "axes.capture.round = 3: must be a list of values, such as [3]"),
        ("axes.model.kind=lenet", "must be a list of values, such as [lenet]"),
        ("axes.capture.round=[]", "axes.capture.round: must have at least one value"),
        ("axes.model.kind=[cnn64, lenett]", 'model.kind = "lenett": must be one of'),
        ("axes.model.kind=[cnn64, lenett]", "Did you mean 'lenet'?"),
        ("axes.capture.round=[1, 1.0]", "the values 1 and 1.0 both have the name 'round-1'"),
        ("axes.defense=[clip]", 'axes.defense = "clip": must be a list of defenses such as'),
        (
            "axes.defense.dp8={kind: dp_update, epsilon: -1}",
            "cells.cnn64_batch-size-1_dp8: defense.0: DPUpdate.epsilon = -1",
        ),
        ("axes.defense.dp8={kind: dp_updat}", "Did you mean 'dp_update'?"),
        ("axes.defense.a b=none", "the name 'a b' must be of letters"),
        (
            "axes.scene={a: {model.kind: mlp}}",
            "axes.scene: sets 'model.kind', which axes.model.kind sets too",
        ),
        (
            "axes.scene={a: {model.knd: mlp}}",
            "axes.scene.a: no setting is at 'model.knd'. Did you mean 'model.kind'?",
        ),
        (
            "axes.exclude=[{defence: dp8}]",
            "axes.exclude.0: 'defence' is no axis of this sweep. Did you mean 'defense'?",
        ),
        (
            "axes.exclude=[{defense: dp9}]",
            "axes.exclude.0.defense = \"dp9\": is no value of this axis. Did you mean 'dp8'?",
        ),
        ("axes.exclude=[{}]", "axes.exclude.0: names no axis"),
        ("axes.exclude=[{defense: dp8}, {defense: none}]", "exclude removes every combination"),
        ("axes.exclude={defense: dp8}", "axes.exclude must be a list"),
        ("axes.include=[{model.kind: lenet}]", "axes.include.0: adds nothing"),
        ("axes.include=[{defense: dp9}]", "is no value of this axis. Did you mean 'dp8'?"),
        ("axes.include=[{study.lag: 3}]", "axes.include.0: cells cannot differ in 'study.lag'"),
        ("axes=[1]", "axes must be a mapping"),
    ],
)
def test_a_mistake_is_one_line_with_axis_value_and_nearest_name(
    tmp_path: Path, override: str, parts: str
) -> None:
    with pytest.raises(InputError) as refused:
        load(tmp_path, AXES, override)
    assert parts in str(refused.value)


def test_a_product_that_is_too_large_is_refused_before_it_is_made(tmp_path: Path) -> None:
    many = ", ".join(map(str, range(200)))
    with pytest.raises(InputError) as refused:
        load(tmp_path, AXES, f"axes.capture.round=[{many}]")
    assert "capture.round (200) gives 1,600 cells: must be at most 1,000" in str(refused.value)
    with pytest.raises(InputError, match=r"gives 64,000,000 cells: must be at most 100,000"):
        load(
            tmp_path,
            AXES,
            *(f"axes.{path}=[{many}]" for path in ("capture.round", "capture.client", "data.train")),
        )
    assert (
        len(load(tmp_path, AXES, f"axes.capture.round=[{many}]", "axes.exclude=[{defense: dp8}]").cells)
        == 800
    )
    assert MOST_CELLS == 1000


def test_own_classes_and_networks_lie_in_the_files_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_own(tmp_path, Path("faces"))
    text = YAML(typ="safe").load(path.read_text())
    text.pop("cells")
    text["axes"] = {
        "defense": {"none": None, "blur": {"kind": "code/my_defense.py:Blur", "sigma": 0.2}},
        "defense.0.sigma": [0.1, 0.3],
        "exclude": [{"defense": "none"}],
    }
    path.write_text(json.dumps(text))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    cells = load_sweep(path).cells
    assert [cell.name for cell in cells] == ["blur_sigma-0.1", "blur_sigma-0.3"]
    defense = cells[1].defense[0]
    assert isinstance(defense, OwnDefense)
    assert (defense.label, defense.settings["sigma"]) == ("my_defense.py:Blur", 0.3)
    (elsewhere / "net.py").write_text("from torch import nn\ndef make():\n    return nn.Linear(1, 1)\n")
    named = sweep_tree(path, ["axes.model.factory=[net.py:make]"])["cells"]
    assert [cell["name"] for cell in named] == ["blur_sigma-0.1_make", "blur_sigma-0.3_make"]
    assert named[0]["differs"]["model.factory"]["module"] == "net.py"


def _written(folder: Path, content: dict[str, Any]) -> SweepConfig:
    folder.mkdir()
    (folder / "sweep.yaml").write_text(json.dumps(content))  # JSON is YAML, and keeps the order of keys.
    return load_sweep(folder / "sweep.yaml")


@pytest.mark.slow
def test_axes_and_their_twin_by_hand_are_one_sweep(tmp_path: Path, faces_root: Path) -> None:
    """The same cells, identities and rows."""
    base = tree(faces_root, victims={"tuning": 1, "test": 1}, study__suggestions=2)
    cells = base.pop("cells")
    dp = cells[1]["defense"]
    axes = {
        "federation.local.batch_size": {"one": 1, "two": 2},
        "data.kind": ["celeba"],
        "defense": {"none": None, "dp": dp},
        "exclude": [{"federation.local.batch_size": "two", "defense": "dp"}],
        "include": [{"name": "late", "capture.round": 1}],
    }
    by_hand = [
        {"name": "one_celeba_none"},
        {"name": "one_celeba_dp", "defense": dp},
        {"name": "two_celeba_none", "differs": {"federation.local.batch_size": 2}},
        {"name": "late", "differs": {"capture.round": 1}},
    ]
    product, twin = (
        _written(tmp_path / "a", base | {"axes": axes}),
        _written(tmp_path / "b", base | {"cells": by_hand}),
    )
    assert product == twin
    assert content_hash(product) == content_hash(twin)
    rows = [run_quietly(sweep, tmp_path / f"out-{i}") for i, sweep in enumerate((product, twin))]
    assert len(rows[0]) == 4 * (2 + 1) + 3
    assert comparable(tmp_path / "out-0").equals(comparable(tmp_path / "out-1"))


def test_a_dry_run_shows_the_expanded_cells(tmp_path: Path, faces_root: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(AXES + f"data: {{root: {faces_root}, train: 64, valid: 12}}\nvictims: {{test: 4}}\n")
    done = gradsweep("sweep", path, "--dry-run", "--no-calibrate", "--cells", "lenet*")
    assert done.returncode == 0, done.stderr
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert 'lenet_batch-size-1_none none model.kind="lenet"' in lines
    assert 'lenet_batch-size-4_dp8 dp_update model.kind="lenet", federation.local.batch_size=4' in lines
    assert "4 cells x 1 attackers" in done.stdout
