"""Whether the settings of a configuration are of the types that its fields say; in words for people where not."""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from fl_core.base.errors import InputError, hint, listed

_SHOWN = 120
"""At most so many characters of a wrong value are repeated."""


def check_types(config: object) -> None:
    """Raise `InputError` for the first field that holds a value of another type than its annotation says."""
    kind: Any = type(config)
    for name, wanted in _wanted(kind).items():
        value = getattr(config, name)
        fitted = _fitted(wanted, value)
        if fitted is _UNFIT:
            raise InputError(
                f"{field_and_value(config, name)}: must be {_words(wanted)}.{_meant(value, wanted)}"
            )
        if fitted is not value:
            object.__setattr__(config, name, fitted)


def field_and_value(owner: object, name: str) -> str:
    """Class, field and value as messages begin with them."""
    value = repr(getattr(owner, name))
    shown = value if len(value) <= _SHOWN else f"{value[:_SHOWN]}..."
    return f"{type(owner).__name__}.{name} = {shown}"


_UNFIT = object()
"""Stands for a value that does not fit."""

_PLAIN: Mapping[type, tuple[str, str]] = {
    bool: ("True or False", "True or False"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("text", "texts"),
    types.NoneType: ("None", "None"),
}
"""What a field of a plain type must be, in words, and what several are."""


@functools.cache
def _wanted(kind: Any) -> dict[str, Any]:
    """The types of a class's fields, but those in which a name cannot be found, as of a class within a function."""
    try:
        hints = get_type_hints(kind)
    except (NameError, AttributeError, TypeError):
        hints = {}
        for base in reversed(kind.__mro__):
            for name, said in vars(base).get("__annotations__", {}).items():
                hints |= _hint(name, said, base.__module__)
    return {each.name: hints[each.name] for each in dataclasses.fields(kind) if each.name in hints}


def _hint(name: str, said: Any, module: str) -> dict[str, Any]:
    """The type of one annotation of a class in `module`, by its name; empty where it cannot be found."""
    try:
        return get_type_hints(type("_Alone", (), {"__annotations__": {name: said}, "__module__": module}))
    except (NameError, AttributeError, TypeError):
        return {}


def _options(wanted: Any) -> tuple[Any, ...]:
    """The alternatives of a union; anything else is the only one."""
    if get_origin(wanted) in (Union, types.UnionType):
        return tuple(option for each in get_args(wanted) for option in _options(each))
    return (wanted,)


def _fitted(wanted: Any, value: Any) -> Any:
    """`value` as a field of the type `wanted` holds it; `_UNFIT` where it cannot."""
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        value = value.item()
    options = _options(wanted)
    each = (_as(option, value) for option in options)
    found = next((fitted for fitted in each if fitted is not _UNFIT), _UNFIT)
    return value if found is _UNFIT and _does_the_same(value, options) else found


def _as(option: Any, value: Any) -> Any:
    """The same for one alternative; what this does not know by its annotation may hold anything."""
    origin, inside = get_origin(option), get_args(option)
    fits = True
    if option in _PLAIN:
        # A truth value is a whole number to Python, and a whole number does for a real one.
        kinds = (int, float) if option is float else (option,)
        fits = isinstance(value, kinds) and isinstance(value, bool) == (option is bool)
    elif origin is Literal:
        fits = any(type(value) is type(name) and value == name for name in inside)
    elif origin is tuple:
        return _as_tuple(inside, value)
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        fits = isinstance(value, Mapping) and all(
            _fitted(inside[1], each) is not _UNFIT for each in value.values()
        )
    elif dataclasses.is_dataclass(option):
        fits = isinstance(value, option)  # type: ignore[arg-type]  # a class
    return value if fits else _UNFIT


def _as_tuple(inside: tuple[Any, ...], value: Any) -> Any:
    if not isinstance(value, tuple | list):
        return _UNFIT
    wanted = inside[:1] * len(value) if inside[-1:] == (...,) else inside
    if len(wanted) != len(value):
        return _UNFIT
    fitted = tuple(_fitted(kind, each) for kind, each in zip(wanted, value, strict=True))
    same = isinstance(value, tuple) and all(a is b for a, b in zip(fitted, value, strict=True))
    return _UNFIT if _UNFIT in fitted else value if same else fitted


def _does_the_same(value: Any, options: tuple[Any, ...]) -> bool:
    """Whether an object of somebody's own class has every method that the classes wanted here have in common."""
    classes = [option for option in options if dataclasses.is_dataclass(option)]
    if not classes or isinstance(value, type):
        return False
    shared = set.intersection(*(_methods(kind) for kind in classes))
    return bool(shared) and all(callable(getattr(value, name, None)) for name in shared)


def _methods(kind: Any) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_") and callable(getattr(kind, name))}


def _names(wanted: Any) -> list[str]:
    """The names among which a `Literal` lets choose."""
    literals = (get_args(option) for option in _options(wanted) if get_origin(option) is Literal)
    return [name for names in literals for name in names if isinstance(name, str)]


def _classes(wanted: Any) -> list[str]:
    """The classes of which a field may hold an object; those that stand for code of a sweep file are not made here."""
    classes: list[Any] = [option for option in _options(wanted) if dataclasses.is_dataclass(option)]
    return [f"{kind.__name__}(...)" for kind in classes if "settings" not in _wanted(kind)]


def _meant(value: object, wanted: Any) -> str:
    """What was probably meant by a value that does not fit; empty where nothing is near."""
    if isinstance(value, type):
        return f" {value.__name__} is the class; an object of it is {value.__name__}(...)."
    if isinstance(value, str):
        return hint(value, [*_names(wanted), *_classes(wanted)])
    inner = [get_args(option)[0] for option in _options(wanted) if get_origin(option) is tuple]
    single = any(_fitted(kind, value) is not _UNFIT for kind in inner)
    return " Put [ ] around it." if single else ""


def _words(wanted: Any, *, several: bool = False) -> str:
    """What a value of the type `wanted` is, in words, or `several` of them."""
    options = _options(wanted)
    said = []
    if choices := [name for option in options if get_origin(option) is Literal for name in get_args(option)]:
        said.append(f"one of {listed(map(repr, choices))}" if len(choices) > 1 else repr(choices[0]))
    if classes := _classes(wanted):
        said.append(f"one of {listed(classes)}" if len(classes) > 1 else classes[0])
    for option in options:
        origin, inside = get_origin(option), get_args(option)
        if option in _PLAIN:
            said.append(_PLAIN[option][several])
        elif origin is tuple:
            each = [_words(kind, several=True) for kind in inside if kind is not ...]
            count = "" if inside[-1] is ... else f"{len(inside)} "
            said.append(f"a list of {count}{', '.join(dict.fromkeys(each))}")
        elif isinstance(origin, type) and issubclass(origin, Mapping):
            said.append(f"a mapping to {_words(inside[-1], several=True)}")
    return " or ".join(said) or "of another type"
