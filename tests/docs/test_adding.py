"""docs/adding.md, followed to the letter: its code is that of the repository, and its defenses and attacks work."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fl_core.base.rng import stream
from fl_core.base.types import ClientUpdate
from fl_core.federation.rounds import FederationConfig
from fl_core.threat.facts import Noise
from orchestrator.config.parse import load_sweep
from orchestrator.config.plain_yaml import read_yaml
from tests.support.pages import blocks
from tests.support.paths import ROOT
from tests.support.small import run_quietly

BLOCKS = [block for block in blocks() if block.page == "docs/adding.md"]
ATTACK, UNION, ENTRY = (block.text for block in BLOCKS if "Blank" in block.text)
OWN, SETTINGS = (block.text for block in BLOCKS if block.language == "yaml")
TRY = """
from pathlib import Path
from types import SimpleNamespace

from attack_core.attacks.blank import Blank
from attack_core.attacks.registry import NAMED
from fl_core.models.config import ModelConfig
from orchestrator.config.parse import load_sweep

shades, any_of_two = load_sweep(Path("sweep.yaml")).attackers
assert shades.attack == NAMED["blank"] == Blank() == any_of_two.families["shades"].attack
assert (shades.attack.restarts, shades.attack.cost(2)) == (1, 0.0)
seen = SimpleNamespace(examples=2, model=ModelConfig(kind="mlp", image_size=16))
found = Blank(level=0.2)(seen, None, None)
assert found.images.shape == (2, 3, 16, 16) and float(found.images.max()) == float(found.images.new_tensor(0.2))
"""


def own_sweep(folder: Path, faces_root: Path) -> Path:
    """The files of "Without touching the package" below `folder`, and its sweep on small faces."""
    for name, class_name in {
        "my_defense.py": "Round",
        "my_attack.py": "Expected",
        "my_parts.py": "Huber",
    }.items():
        (shown,) = (block.text for block in BLOCKS if f"class {class_name}(" in block.text)
        (folder / name).write_text(shown, encoding="utf-8")
    common = {
        "name": "page",
        "data": {"kind": "celeba", "root": str(faces_root), "train": 24, "valid": 12, "public": 8},
        "model": {"kind": "mlp", "image_size": 16},
        "federation": {"clients": 4, "rounds": 1},
        "victims": {"tuning": 1, "test": 2},
        "study": {"suggestions": 2},
        "execution": {"device": "cpu", "controls": False},
    }
    sweep = read_yaml(OWN, where="docs/adding.md")
    assert isinstance(sweep, dict)
    path = folder / "sweep.yaml"
    path.write_text(json.dumps(common | sweep))
    return path


def test_the_files_without_touching_the_package_run(tmp_path: Path, faces_root: Path) -> None:
    config = load_sweep(own_sweep(tmp_path, faces_root))
    rows = run_quietly(config, tmp_path / "out")
    assert set(rows["status"]) == {"ok"}, rows["error"].dropna().unique()
    assert {"my_defense.py:Round", "none"} == set(rows["defense"])
    assert {"my_attack.py:Expected", "matching"} == set(rows["attack"])
    assert set(rows["cell"]) == {"none", "rounded", "step_0.0001", "step_0.1"}


def test_what_the_page_says_of_rounding_is_so(tmp_path: Path, faces_root: Path) -> None:
    (_, rounded, *_) = load_sweep(own_sweep(tmp_path, faces_root)).cells
    (own,) = rounded.defense
    plan = FederationConfig()
    given = torch.rand(10_000, generator=torch.Generator().manual_seed(1))
    update = ClientUpdate(client=0, tensors={"a": given}, examples=1, steps=1, lr=0.1, momentum=0.0)
    sent = own.on_update(update, stream("x", 0, 0, 0), plan).tensors["a"]
    assert torch.allclose(sent / 0.01, (sent / 0.01).round(), atol=1e-3)
    (fact,) = own.facts(plan)
    assert fact == Noise(distribution="gaussian", sigma=0.01 / 12**0.5)
    assert float((sent - given).std()) == pytest.approx(0.01 / 12**0.5, rel=0.05)


@pytest.mark.parametrize("name", ["Compressor", "SignOnly"])
def test_defenses_are_shown_as_they_are(name: str) -> None:
    shown = next(block.text for block in BLOCKS if f"class {name}(" in block.text)
    assert shown in (ROOT / "defenses" / "compression" / "compression.py").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_attack_of_the_page_works_where_it_is_added(tmp_path: Path) -> None:
    """In a copy of the packages: its file, the two changes of the registry, and the sweep file."""
    for package in ("fl_core", "defenses", "attack_core", "orchestrator"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    attacks = tmp_path / "attack_core" / "attacks"
    (attacks / "blank.py").write_text(ATTACK, encoding="utf-8")
    registry = (attacks / "registry.py").read_text(encoding="utf-8")
    head = "NAMED: dict[str, AnyAttack] = {\n"
    imported = "from attack_core.attacks.auto import Auto\n"
    changes = {
        imported: imported + "from attack_core.attacks.blank import Blank\n",
        UNION.replace(" | Blank", ""): UNION,
        head: head + ENTRY,
    }
    for old, new in changes.items():
        assert registry.count(old) == 1, f"the registry holds no {old!r} now"
        registry = registry.replace(old, new)
    (attacks / "registry.py").write_text(registry, encoding="utf-8")
    sweep = read_yaml(SETTINGS, where="docs/adding.md")
    assert isinstance(sweep, dict)
    (tmp_path / "sweep.yaml").write_text(json.dumps({"name": "shades", **sweep}))
    done = subprocess.run(
        [sys.executable, "-c", TRY],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
