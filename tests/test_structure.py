"""The house: which room may import which, no cycles, every module placed, and what loads without the orchestration."""

from __future__ import annotations

import ast
import graphlib
import importlib
import re
import subprocess
import sys
import tomllib
from collections import Counter
from fnmatch import fnmatch
from pathlib import Path

import pytest

from scripts.module_map import LEVELS
from tests.support.paths import ROOT

PACKAGES = ("fl_core", "defenses", "attack_core", "orchestrator", "gradsweep")
MAY_IMPORT = {
    "fl_core": set(),
    "defenses": {"fl_core"},
    "attack_core": {"fl_core"},
    "orchestrator": {"fl_core", "defenses", "attack_core"},
    "gradsweep": {"fl_core", "defenses", "attack_core", "orchestrator"},
}
LARGEST_ROOM = 10
IMPORTED_AS = {
    "cmaes": "cmaes",
    "cryptography": "cryptography",
    "filelock": "filelock",
    "jinja2": "jinja2",
    "matplotlib": "matplotlib",
    "optuna": "optuna",
    "pandas": "pandas",
    "pyarrow": "pyarrow",
    "pycryptodome": "Crypto",
    "pydantic": "pydantic",
    "ray": "ray",
    "rich": "rich",
    "ruamel-yaml": "ruamel",
    "tenacity": "tenacity",
    "tenseal": "tenseal",
    "typer": "typer",
}
"""The libraries of the extras, and the names that they are imported by."""
CRYPTOGRAPHY = {"cryptography", "Crypto", "tenseal"}
ORCHESTRATION = set(IMPORTED_AS.values()) - CRYPTOGRAPHY


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def name_of(path: Path) -> str:
    """`fl_core/base/errors.py` as `fl_core.base.errors`."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


MODULES = {name_of(path): path for package in PACKAGES for path in sources(package)}


def imports(path: Path) -> set[str]:
    """Every module that a file imports, wherever in the file, those for type checking alone too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & MODULES.keys()
            found |= inner or {node.module}
    return found


def ours(path: Path) -> set[str]:
    """Those of `imports` that are files of our packages."""
    found = imports(path)
    return {name if name in MODULES else f"{name}.__init__" for name in found} & MODULES.keys()


def room_of(module: str) -> str:
    """The room of a module of a package: the first name below it."""
    return module.split(".")[1]


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_one_way(package: str) -> None:
    assert sources(package)
    for path in sources(package):
        tops = {name.split(".")[0] for name in imports(path)}
        assert tops & set(PACKAGES) <= MAY_IMPORT[package] | {package}, path
        if package not in ("orchestrator", "gradsweep"):
            assert not tops & ORCHESTRATION, path


@pytest.mark.parametrize("package", PACKAGES)
def test_rooms_import_lower_levels_only(package: str) -> None:
    level = {room: i for i, rooms in enumerate(LEVELS[package]) for room in rooms}
    for path in sources(package):
        mine = name_of(path)
        if mine == f"{package}.__init__":
            continue
        assert room_of(mine) in level, f"{mine} is in no room of LEVELS: place it"
        for other in ours(path):
            if room_of(other) == "__init__":
                continue
            if other.split(".")[0] == package and room_of(other) != room_of(mine):
                assert level[room_of(other)] < level[room_of(mine)], f"{mine} imports {other}"


def test_no_files_import_each_other() -> None:
    graph = {name: ours(path) - {name} for name, path in MODULES.items() if path.stem != "__init__"}
    # A room's face imports its files; a file that imports the face would be a cycle through it.
    graph |= {name: ours(path) for name, path in MODULES.items() if path.stem == "__init__"}
    assert tuple(graphlib.TopologicalSorter(graph).static_order())


def test_no_room_is_crowded() -> None:
    rooms = Counter(path.parent for path in MODULES.values() if path.stem != "__init__")
    assert not {str(room): count for room, count in rooms.items() if count > LARGEST_ROOM}


def test_every_room_says_what_it_holds() -> None:
    for name, path in MODULES.items():
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        assert text or name.endswith("__main__"), f"{name} has no docstring"
        assert text != "TODO.", name


@pytest.mark.parametrize("room", [name for name in MODULES if name.endswith(".__init__")])
def test_what_a_room_exports_is_there(room: str) -> None:
    module = importlib.import_module(room.removesuffix(".__init__"))
    for name in getattr(module, "__all__", ()):
        assert getattr(module, name) is not None, f"{room}: {name}"


@pytest.mark.slow
def test_numerical_packages_load_no_orchestration_library() -> None:
    # The masks' own arithmetic is loaded when a sum is masked.
    apart = ("orchestrator", "gradsweep", "defenses.masking.parties")
    modules = [name for name in MODULES if not name.startswith(apart)]
    # A bare machine has none of them: a package that needs one would fail to import here.
    code = f"""
import importlib, sys
for name in {sorted(IMPORTED_AS.values())!r}:
    sys.modules[name] = None
for module in {[name.removesuffix(".__init__") for name in modules]!r}:
    importlib.import_module(module)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_no_print_and_no_global_seeding_in_libraries() -> None:
    for path in MODULES.values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
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
    for package in required("all", *(["dev"] if name == "dev" else [])):
        assert package in pinned, f"{package} is not locked: run make lock"


def required(*extras: str) -> set[str]:
    """The distributions that the project needs with these extras, which may name others of them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    waiting, seen, found = list(extras), set(extras), set[str]()
    requirements = list(project["dependencies"])
    while waiting:
        requirements += project["optional-dependencies"][waiting.pop()]
        for requirement in [each for each in requirements if each.startswith("gradsweep[")]:
            inner = set(requirement.partition("[")[2].rstrip("]").split(",")) - seen
            waiting += inner
            seen |= inner
    for requirement in requirements:
        package = re.match(r"[A-Za-z0-9-]+", requirement)
        assert package
        found.add(package[0])
    return found - {"gradsweep"}


def test_extras_hold_what_the_numerical_packages_do_without() -> None:
    """`IMPORTED_AS` blocks the libraries of every extra in the test above; all together are what `make` installs."""
    assert required("all") - required() == set(IMPORTED_AS)
    assert {"torch", "numpy", "scipy", "dp-accounting"} <= required()


@pytest.mark.slow
def test_a_missing_extra_is_one_line_with_the_command_that_installs_it() -> None:
    code = """
import sys
from orchestrator.cli.start import main
for missing, words in (
    ("matplotlib", ["report", "tests/compatibility/results"]),
    ("ray", ["sweep", "sweeps/quickstart.yaml", "--dry-run"]),
):
    sys.modules[missing] = None
    try:
        main(words)
    except SystemExit as end:
        assert end.code == 2, end.code
    del sys.modules[missing]
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "".join(
        f"gradsweep: The library {missing} is not installed, which the command line needs: "
        'pip install "gradsweep[all]"\n'
        for missing in ("matplotlib", "ray")
    )


def test_the_two_locks_agree() -> None:
    run, dev = ((ROOT / "requirements" / f"{name}.txt").read_text().splitlines() for name in ("run", "dev"))
    assert set(run) <= set(dev)


def test_tests_live_where_their_modules_live() -> None:
    others = {
        "support",
        "golden",
        "compatibility",
        "cluster",
        "containers",
        "docker",
        "docs",
        "scripts",
        "benchmarks",
    }
    tests = ROOT / "tests"
    for path in tests.rglob("test_*.py"):
        folder = path.parent.relative_to(tests)
        if path.parent != tests and folder.parts[0] not in others:
            assert (ROOT / folder / "__init__.py").is_file(), f"{path} mirrors no room"


def test_no_test_module_imports_another() -> None:
    for path in (ROOT / "tests").rglob("*.py"):
        found = {name for name in imports(path) if name.startswith("tests.")}
        assert not [name for name in found if name.rsplit(".", 1)[-1].startswith("test_")], path


def test_every_folder_of_tests_is_collected() -> None:
    """A bare name in `norecursedirs` leaves out every folder of that name, whatever it lies in."""
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    left_out = {pattern for pattern in options["norecursedirs"] if "/" not in pattern}
    folders = {path.parent.name for path in (ROOT / "tests").rglob("test_*.py")}
    assert not {name for name in folders for pattern in left_out if fnmatch(name, pattern)}
