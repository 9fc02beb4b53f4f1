"""The keys of a class of settings: name, type, default and meaning, each where the class declares it."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

from fl_core.base.types import InUnits
from orchestrator.config.plain import to_plain

Annotation: TypeAlias = Any
"""What stands behind the colon of a field."""

_NAMES = {str: "text", int: "whole number", float: "number", bool: "true or false", NoneType: "null"}


@dataclass(frozen=True, kw_only=True)
class Key:
    """One key of a sweep file; `meaning` is empty where the class alone explains it, `unit` where there is none."""

    name: str
    annotation: Annotation
    unit: str
    default: str
    meaning: str

    @property
    def type(self) -> str:
        """The type in words."""
        return described(self.annotation)


def keys_of(kind: type[Any]) -> list[Key]:
    """The keys of a class, in the order of its fields; `kind` first where there is one."""
    hints, said = get_type_hints(kind), meanings(kind)
    units = units_of(kind)
    found = [
        Key(
            name=field.name,
            annotation=hints[field.name],
            unit=units.get(field.name, ""),
            default=_default(field),
            meaning=said.get(field.name, ""),
        )
        for field in dataclasses.fields(kind)
    ]
    return sorted(found, key=lambda key: key.name != "kind")


def units_of(kind: type[Any]) -> dict[str, str]:
    """The units that a class declares for its keys (`fl_core.base.types.InUnits`); keys without one are left out."""
    return {
        name: part.name
        for name, annotation in get_type_hints(kind, include_extras=True).items()
        if get_origin(annotation) is Annotated
        for part in annotation.__metadata__
        if isinstance(part, InUnits)
    }


def kinds_of(root: type[Any]) -> list[type[Any]]:
    """Every class of settings that a file of `root` may hold, each once, outer ones first."""
    found: dict[type[Any], None] = {}

    def visit(kind: type[Any]) -> None:
        if kind not in found:
            found[kind] = None
            for annotation in get_type_hints(kind).values():
                for inner in classes_in(annotation):
                    visit(inner)

    visit(root)
    return list(found)


def classes_in(annotation: Annotation) -> Iterator[type[Any]]:
    """The classes of settings that an annotation names, in lists and mappings too."""
    origin: Any = get_origin(annotation)
    if dataclasses.is_dataclass(annotation):
        yield annotation  # type: ignore[misc]  # a class, since annotations are no instances
    elif origin is not Literal:
        for inner in get_args(annotation):
            yield from classes_in(inner)


def meanings(kind: type[Any]) -> dict[str, str]:
    """What the texts below a class's fields say, in one line each."""
    found: dict[str, str] = {}
    for owner in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(owner):
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
        body = tree.body if isinstance(tree, ast.ClassDef) else []
        for field, text in pairwise(body):
            told = text.value if isinstance(text, ast.Expr) else None
            if isinstance(field, ast.AnnAssign) and isinstance(told, ast.Constant):
                found[ast.unparse(field.target)] = " ".join(str(told.value).split())
    return found


def described(annotation: Annotation) -> str:
    """A type in words, such as `list of whole number`, or the names that may stand there."""
    origin: Any = get_origin(annotation)
    inside = get_args(annotation)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(described(each) for each in inside))
    if origin is Literal:
        return " or ".join(f"`{json.dumps(each) if not isinstance(each, str) else each}`" for each in inside)
    if origin is tuple:
        several = [each for each in inside if each is not ...]
        return (
            f"list of {described(several[0])}" if ... in inside else f"[{', '.join(map(described, several))}]"
        )
    if origin is dict:
        return f"mapping of names to {described(inside[1])}"
    if dataclasses.is_dataclass(annotation):
        return "settings"
    return _NAMES.get(annotation, "anything")


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    elif field.default is not dataclasses.MISSING:
        value = field.default
    else:
        return "required"
    if dataclasses.is_dataclass(value):
        kind = getattr(value, "kind", None)
        return f"`{kind}`" if isinstance(kind, str) else "its defaults"
    if isinstance(value, tuple) and value and all(map(dataclasses.is_dataclass, value)):
        return ", ".join(f"`{getattr(each, 'name', None) or getattr(each, 'kind', '')}`" for each in value)
    plain = list(value) if isinstance(value, tuple) else value
    return f"`{json.dumps(plain, default=to_plain)}`"
