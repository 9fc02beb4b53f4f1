"""docs/adding.md, followed to the letter: its code is that of the repository, and its attack works."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.config.plain_yaml import read_yaml
from tests.support.pages import blocks
from tests.support.paths import ROOT

BLOCKS = [block for block in blocks() if block.page == "docs/adding.md"]
ATTACK, UNION, ENTRY = (block.text for block in BLOCKS if "Blank" in block.text)
SETTINGS = next(block.text for block in BLOCKS if block.language == "yaml")
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


@pytest.mark.parametrize("name", ["Compressor", "SignOnly"])
def test_defenses_are_shown_as_they_are(name: str) -> None:
    shown = next(block.text for block in BLOCKS if f"class {name}(" in block.text)
    assert shown in (ROOT / "defenses" / "compression" / "compression.py").read_text(encoding="utf-8")


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
