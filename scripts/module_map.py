"""The map of modules, docs/modules.md: package by package, level by level, room by room, from each file's first line.

python scripts/module_map.py            # writes docs/modules.md
python scripts/module_map.py --check    # exit code 1 where the page is stale
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "modules.md"
LEVELS: dict[str, tuple[tuple[str, ...], ...]] = {
    "fl_core": (("base",), ("data", "models"), ("federation",), ("threat",)),
    "defenses": (("mechanism",), ("compression", "inputs", "secure"), ("dp", "he", "masking"), ("chain",)),
    "attack_core": (
        ("base", "gradients", "metrics"),
        ("signal", "priors", "input_inversion"),
        ("fc", "tokens", "convolutions", "evidence"),
        ("inversion", "local_sgd", "separation"),
        ("matching", "certificates"),
        ("solving",),
        ("choosing",),
        ("attacks",),
    ),
    "orchestrator": (
        ("axes",),
        ("config", "io", "library", "pages", "runtime"),
        ("results", "execute", "cluster", "reference"),
        ("capture",),
        ("trial", "analysis", "calibration", "inference"),
        ("audit", "study", "report"),
        ("driver", "suites", "exports"),
        ("living",),
        ("cli",),
        ("__main__",),
    ),
    "gradsweep": (("attacks", "calls", "defenses", "files", "sweeps"),),
}
"""The rooms of each package from the lowest level up. A room imports rooms of lower levels only, and itself."""

_HEAD = """# Map of modules

This page tells you what each module is for, so that you know which file to open. `python scripts/module_map.py`
writes it from the first line of every module; a test fails where it is stale.

The packages `defenses` and `attack_core` import `fl_core` and never each other; `orchestrator` imports all three, and
`gradsweep` is what the public library re-exports of them.
Inside a package a room imports rooms of lower levels only. `tests/test_structure.py` proves both.
"""


def first_line(path: Path) -> str:
    """The first line of a module's docstring."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0]


def page() -> str:
    """The whole page."""
    parts = [_HEAD]
    for package, levels in LEVELS.items():
        parts.append(f"## {package}\n\n{first_line(ROOT / package / '__init__.py')}\n")
        for number, rooms in enumerate(levels, start=1):
            parts += [_room(package, room, number) for room in rooms]
    return "\n".join(parts)


def _room(package: str, room: str, level: int) -> str:
    """A room's heading, its purpose and its table; a room of a single file is that file."""
    folder = ROOT / package / room
    if not folder.is_dir():
        path = folder.with_suffix(".py")
        return f"### {package}.{room} (level {level})\n\n{_link(path, path.name)}: {first_line(path)}\n"
    files = [path for path in sorted(folder.rglob("*.py")) if path != folder / "__init__.py"]
    lines = [
        f"### {package}.{room} (level {level})\n",
        f"{first_line(folder / '__init__.py')}\n",
        "| module | what it is for |",
        "|---|---|",
        *(f"| {_link(path, path.relative_to(folder).as_posix())} | {first_line(path)} |" for path in files),
    ]
    return "\n".join(lines) + "\n"


def _link(path: Path, text: str) -> str:
    return f"[`{text}`](../{path.relative_to(ROOT).as_posix()})"


def main(arguments: list[str]) -> int:
    """Write the page, or with `--check` say whether it is up to date."""
    text = page()
    if "--check" in arguments:
        return int(not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text)
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
