"""Writes docs/api.md, every stable name of `import gradsweep`, from the docstrings."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
from pathlib import Path
from types import ModuleType

import gradsweep

PAGE = Path(__file__).resolve().parents[1] / "docs" / "api.md"

_HEAD = """# The names of the library

This page tells you what each name of `import gradsweep as gs` takes, gives and raises. `python scripts/api_page.py`
writes it from the docstrings; a test fails where it is stale. [library.md](library.md) has examples to begin with.
"""


def page() -> str:
    """The page's text."""
    names = sorted((name for name in gradsweep.__all__), key=str.lower)
    objects = {name: getattr(gradsweep, name) for name in names}
    modules = {name: found for name, found in objects.items() if isinstance(found, ModuleType)}
    parts = [_HEAD]
    parts += [_entry(name, found, "##") for name, found in objects.items() if name not in modules]
    for name, module in modules.items():
        parts.append(f"## {name}\n\n{_text(module)}\n")
        parts += [_entry(each, getattr(module, each), "###") for each in _classes(module)]
    return "\n".join(parts)


def _classes(module: ModuleType) -> list[str]:
    """The public classes of a module; its mappings of names are said in its docstring."""
    return sorted(
        (name for name, found in vars(module).items() if inspect.isclass(found) and not name.startswith("_")),
        key=str.lower,
    )


def _entry(name: str, found: object, level: str) -> str:
    """Heading, signature, docstring, and the public methods of a class."""
    lines = [f"{level} {name}\n", f"    {_signature(name, found)}\n", f"{_text(found)}\n"]
    if inspect.isclass(found):
        for method, made in vars(found).items():
            call = made.__func__ if isinstance(made, classmethod | staticmethod) else made
            if method.startswith("_") or not inspect.isfunction(call):
                continue
            lines.append(f"`{_signature(method, call)}`: {_text(call)}\n")
    return "\n".join(lines)


def _signature(name: str, found: object) -> str:
    """As it is called; a class of settings by its fields."""
    if inspect.isclass(found) and dataclasses.is_dataclass(found):
        return f"{name}({', '.join(_field(each) for each in dataclasses.fields(found) if each.init)})"
    if inspect.isclass(found):
        return name
    assert callable(found)
    arguments = re.sub(r"^\((?:self|cls)(?:, )?", "(", str(inspect.signature(found)), count=1)
    # Functions have an address, and limits a dozen numbers that are no part of a call.
    arguments = re.sub(r"= (?:<function .*? at 0x[0-9a-f]+>|\w+Limits\([^()]*\))", "= ...", arguments)
    return name + re.sub(r"(: |-> )'([^']*)'", r"\1\2", arguments)


def _field(field: dataclasses.Field[object]) -> str:
    if field.default is not dataclasses.MISSING:
        return f"{field.name}={field.default!r}"
    if field.default_factory is not dataclasses.MISSING:
        return f"{field.name}=..."
    return field.name


def _text(found: object) -> str:
    """The docstring, as the page shows it."""
    return inspect.getdoc(found) or ""


def main() -> None:
    """Write the page."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
