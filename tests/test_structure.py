"""The one-way imports, walked in the source and tried in a fresh interpreter."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("fl_core", "defenses", "attack_core", "orchestrator")
MAY_IMPORT = {
    "fl_core": set(),
    "defenses": {"fl_core"},
    "attack_core": {"fl_core"},
    "orchestrator": {"fl_core", "defenses", "attack_core"},
}
ORCHESTRATION = {
    "ray",
    "optuna",
    "pydantic",
    "pyarrow",
    "pandas",
    "matplotlib",
    "typer",
    "rich",
    "safetensors",
}


def imported(path: Path) -> set[str]:
    """Top-level names that a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", PACKAGES)
def test_arrows_point_one_way(package: str) -> None:
    assert sources(package)
    for path in sources(package):
        ours = imported(path) & set(PACKAGES)
        assert ours <= MAY_IMPORT[package] | {package}, f"{path} imports {ours}"
        if package != "orchestrator":
            assert not imported(path) & ORCHESTRATION, path


def test_numerical_packages_load_no_orchestration_library() -> None:
    modules = [
        f"{package}.{path.stem}"
        for package in PACKAGES[:3]
        for path in sources(package)
        if path.stem != "__init__"
    ]
    # A bare machine has none of them: a package that needs one would fail to import here.
    code = f"""
import importlib, sys
for name in {sorted(ORCHESTRATION)!r}:
    sys.modules[name] = None
for module in {modules!r}:
    importlib.import_module(module)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_no_print_and_no_global_seeding_in_libraries() -> None:
    for package in PACKAGES:
        for path in sources(package):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call):
                    name = ast.unparse(node.func)
                    assert name not in {"print", "torch.manual_seed", "np.random.seed", "random.seed"}, (
                        f"{path}: {name}"
                    )


@pytest.mark.parametrize("name", ["run", "dev"])
def test_the_lock_pins_every_dependency_and_names_no_address(name: str) -> None:
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    pinned = {}
    for line in lines:
        found = re.fullmatch(r"([a-z0-9-]+)==([0-9][\w.+!-]*)( ; .+)?", line)
        assert found, line
        pinned[found[1]] = found[2]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + (project["optional-dependencies"]["dev"] if name == "dev" else [])
    for requirement in wanted:
        package = re.match(r"[A-Za-z0-9-]+", requirement)
        assert package
        assert package[0] in pinned, f"{package[0]} is not locked: run make lock"


def test_the_two_locks_agree() -> None:
    run, dev = ((ROOT / "requirements" / f"{name}.txt").read_text().splitlines() for name in ("run", "dev"))
    assert set(run) <= set(dev)
