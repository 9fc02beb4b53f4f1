"""Explains why settings are refused: one sentence on the setting that was meant."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from fl_core.base.errors import InputError, hint, listed

_WORDS = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "none_required": "null",
}
"""What a setting must be, by pydantic's name for its not being that."""

OWN = "own"
"""The kind of what a class of the user's own stands behind; a sweep file names that class instead."""

OWN_CODE = "FILE.py:CLASS of your own"

_UNKNOWN_KEY, _RULE, _TYPE = range(3)
"""How little a mistake says, least first: a key that there is none of, a rule of ours that is broken, a wrong type."""

_Annotation: TypeAlias = Any
"""What stands behind the colon of a field: a class, a union, a `Literal`, `tuple[float, ...]`."""


@dataclass(frozen=True, kw_only=True)
class _Finding:
    """One mistake: where it is, what stands there, what would be right, and its rank among others.

    `wanted` is one of several things that would be right at this place.
    """

    place: str
    rank: int
    value: str = ""
    text: str = ""
    wanted: str = ""


@dataclass
class _Walk:
    """A place in the data that a location was followed to, with the type that is wanted there and the class around."""

    annotation: _Annotation
    node: object
    place: list[str] = field(default_factory=list)
    around: type[Any] | None = None

    @property
    def dotted(self) -> str:
        return ".".join(self.place)

    def enter(self, part: str | int) -> None:
        """Go on to the entry `part`, where there is one: pydantic also names which alternative it tried."""
        options = _options(self.annotation)
        if len(options) == 1 and _fields(options[0]):
            self.around = options[0]
            self.annotation = get_type_hints(options[0]).get(str(part))
        else:
            inside = [get_args(option)[-2:] for option in options if _origin(option) in (tuple, dict)]
            present = part in self.node if isinstance(self.node, dict) else isinstance(part, int)
            if not inside or not present:
                return
            # Of tuple[X, ...] the first, of dict[str, X] the last.
            self.annotation = next(each for each in inside[0] if each not in (str, ...))
        self.place.append(str(part))
        try:
            self.node = self.node[part]  # type: ignore[index]  # the data may be of any type
        except (KeyError, IndexError, TypeError):
            self.node = None


def setting_paths(kind: type[Any]) -> list[str]:
    """The dotted path of every setting of a class and of every group of settings in it.

    Of several classes that may stand at a place the settings of all are named; lists and mappings are single settings.
    """
    found = []
    for name, annotation in get_type_hints(kind).items():
        if name not in _fields(kind):
            continue
        found.append(name)
        inner = (path for option in _options(annotation) if _fields(option) for path in setting_paths(option))
        found += [f"{name}.{path}" for path in inner]
    return list(dict.fromkeys(found))


class UnknownKey(InputError):
    """A key that there is none of at its place: `key` with dots, from the top of what was built."""

    def __init__(self, message: object, key: str = "") -> None:
        super().__init__(message)
        self.key = key


def explain(kind: type[Any], tree: object, error: ValidationError, *, where: str) -> InputError:
    """One sentence on the mistake that says most: an unknown key, else a rule of ours, else a wrong type deep down."""
    found = [each for detail in error.errors(include_url=False) if (each := _finding(kind, tree, detail))]
    first = min(found, key=lambda finding: (finding.rank, -finding.place.count(".")))
    text = first.text
    if first.wanted:
        wanted = [each.wanted for each in found if each.place == first.place and each.wanted]
        text = f"must be {' or '.join(dict.fromkeys(wanted))}.{first.text}"
    head = f"{where}: {first.place}{first.value}"
    if first.rank == _UNKNOWN_KEY:
        return UnknownKey(f"{where}: {text}", first.place)
    return InputError(f"{head}: {text}" if first.place else f"{where}: {text}")


def _finding(kind: type[Any], tree: object, error: ErrorDetails) -> _Finding | None:
    """What `error` says; None where it concerns another member of a union than the one that was meant."""
    walk = _Walk(kind, tree)
    for part in error["loc"]:
        members = _by_kind(walk.annotation)
        if not members:
            walk.enter(part)
            continue
        known = ", ".join(sorted(repr(name) for name in members if name != OWN))
        known += f" or {OWN_CODE}" if OWN in members else ""
        if not isinstance(walk.node, dict):
            text = f"must be a mapping with a kind: one of {known}."
            return _Finding(place=walk.dotted, rank=_TYPE, value=_shown(walk.node), text=text)
        given = walk.node.get("kind")
        if not isinstance(given, str) or given not in members:
            value = _shown(given) if "kind" in walk.node else " is missing"
            text = f"must be one of {known}.{hint(str(given), members)}"
            return _Finding(place=f"{walk.dotted}.kind".lstrip("."), rank=_TYPE, value=value, text=text)
        if part != members[given].__name__:
            return None
        walk.annotation = members[given]
    return _described(walk, error)


def _described(walk: _Walk, error: ErrorDetails) -> _Finding:
    place, value, what = walk.dotted, _shown(error["input"]), error["type"]
    if what == "unexpected_keyword_argument":
        known = _fields(walk.around)
        text = f"unknown key {place!r}.{hint(walk.place[-1], known)} Known here: {listed(known)}."
        return _Finding(place=place, rank=_UNKNOWN_KEY, text=text)
    if what == "value_error":
        return _Finding(place=place, rank=_RULE, text=error["msg"].removeprefix("Value error, "))
    if what == "missing":
        return _Finding(place=place, rank=_TYPE, text="is missing.")
    if what == "dataclass_type":
        keys = listed(name for option in _options(walk.annotation) for name in _fields(option))
        return _Finding(place=place, rank=_TYPE, value=value, wanted=f"a mapping with keys among {keys}")
    if what == "literal_error":
        names = [str(name) for option in _options(walk.annotation) for name in _literals(option)]
        expected, near = error["ctx"]["expected"], hint(str(error["input"]), names)
        return _Finding(place=place, rank=_TYPE, value=value, wanted=f"one of {expected}", text=near)
    if what in ("list_type", "tuple_type") and error["input"] is not None:
        return _Finding(place=place, rank=_TYPE, value=value, wanted="a list, with [ ] around it")
    wanted = _WORDS.get(what)
    if wanted is None:
        return _Finding(place=place, rank=_TYPE, value=value, text=f"{error['msg']}.")
    return _Finding(place=place, rank=_TYPE, value=value, wanted=wanted)


@cache
def _options(annotation: _Annotation) -> tuple[_Annotation, ...]:
    """The alternatives of a union, without null; anything else is the only one."""
    if _origin(annotation) not in (Union, UnionType):
        return (annotation,)
    return tuple(
        option for each in get_args(annotation) for option in _options(each) if option is not NoneType
    )


def _by_kind(annotation: _Annotation) -> dict[str, type[Any]]:
    """The members of a union of classes by their `kind`; empty for anything else."""
    options = _options(annotation)
    if len(options) < 2 or not all(map(_fields, options)):
        return {}
    return {get_args(get_type_hints(option)["kind"])[0]: option for option in options}


def _fields(annotation: _Annotation) -> list[str]:
    """The names of a class's settings; none for what is no such class."""
    return (
        [each.name for each in dataclasses.fields(annotation)] if dataclasses.is_dataclass(annotation) else []
    )


def _origin(annotation: _Annotation) -> Any:
    return get_origin(annotation)


def _literals(annotation: _Annotation) -> tuple[Any, ...]:
    return get_args(annotation) if _origin(annotation) is Literal else ()


def _named(value: object) -> object:
    """A value with the names of own classes in the place of their text."""
    code = value.get("code") if isinstance(value, dict) and value.get("kind") == OWN else None
    if not isinstance(value, dict) or not isinstance(code, dict):
        return value
    return {"kind": f"{code.get('module')}:{code.get('name')}", **(value.get("settings") or {})}


def _shown(value: object) -> str:
    """` = value`, cut short; own code by its name, as a person wrote it."""
    text = json.dumps(_named(value), default=str)
    return f" = {text[:80]}{'...' if len(text) > 80 else ''}"
