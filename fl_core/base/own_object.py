"""An object of a user's own class as plain data: its code and its settings, of which every process makes it."""

from __future__ import annotations

import dataclasses
import json
import types
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar, Self, Union, get_args, get_origin, get_type_hints

from fl_core.base.own_code import OwnCode, OwnCodeFailed
from fl_core.base.types import Config


@dataclass(frozen=True, kw_only=True)
class OwnObject(Config):
    """Base of what stands in a configuration for an object of a user's own class.

    `settings` are the fields of that class as plain data, all of them. So it goes to workers, into identities and into
    results without the class, which is loaded where something is asked of the object.
    """

    code: OwnCode
    settings: dict[str, Any] = field(default_factory=dict)

    passing: ClassVar[tuple[type[Exception], ...]] = ()
    """What the object may raise to say something by it."""

    @property
    def itself(self) -> Any:
        """The object, made once in each process. Raises `OwnCodeFailed` where its class refuses the settings."""
        return _made(self.code, json.dumps(self.settings, sort_keys=True))

    def get(self, name: str) -> Any:
        """An attribute of the object; what it raises becomes `OwnCodeFailed`."""
        with self.code.blamed(f"in {name}", passing=self.passing):
            return getattr(self.itself, name)

    def ask(self, name: str, *arguments: Any, **named: Any) -> Any:
        """What a method of the object returns; what it raises becomes `OwnCodeFailed`, but for what is `passing`."""
        with self.code.blamed(f"in {name}", passing=self.passing):
            return getattr(self.itself, name)(*arguments, **named)

    def require(self, holds: bool, what: str) -> None:
        """Raise `OwnCodeFailed` with the class's name and `what` it did, unless that holds."""
        if not holds:
            raise OwnCodeFailed(f"{self.code.place} {what}.")

    def changed(self, other: object) -> Self:
        """The same with the settings of `other`, an object of the same class."""
        plain = {name: value for name, value in dataclasses.asdict(other).items() if name != "kind"}  # type: ignore[call-overload]  # a dataclass
        return dataclasses.replace(self, settings=json.loads(json.dumps(plain)))


def from_plain(kind: type[Any], settings: dict[str, Any]) -> Any:
    """An object of the dataclass `kind` from plain data that fit it.

    Lists become tuples, mappings dataclasses, and whole numbers real ones, where the fields say so.
    """
    wanted = get_type_hints(kind)
    return kind(**{name: _typed(wanted.get(name, Any), value) for name, value in settings.items()})


@lru_cache(maxsize=1024)
def _made(code: OwnCode, settings: str) -> Any:
    kind = code.load()
    with code.blamed(f"with the settings {settings}"):
        return from_plain(kind, json.loads(settings))


def _typed(wanted: Any, value: Any) -> Any:
    """`value` as what a field of the type `wanted` holds; what is none of this kind of data stays as it is."""
    options = _options(wanted)
    if isinstance(value, dict):
        return _mapping(options, value)
    if isinstance(value, list):
        return _sequence(options, value)
    real = float in options and int not in options and type(value) is int
    return float(value) if real else value


def _options(wanted: Any) -> tuple[Any, ...]:
    """The alternatives of a union; anything else is the only one."""
    if get_origin(wanted) in (Union, types.UnionType):
        return tuple(option for each in get_args(wanted) for option in _options(each))
    return (wanted,)


def _mapping(options: tuple[Any, ...], value: dict[str, Any]) -> Any:
    for option in options:
        if dataclasses.is_dataclass(option):
            fields = {each.name: each.default for each in dataclasses.fields(option)}
            if value.keys() <= fields.keys() and value.get("kind") in (None, fields.get("kind")):
                return from_plain(option, value)  # type: ignore[arg-type]  # a class
    inside = next((get_args(option)[1] for option in options if get_origin(option) is dict), Any)
    return {name: _typed(inside, each) for name, each in value.items()}


def _sequence(options: tuple[Any, ...], value: list[Any]) -> Any:
    wanted = next((option for option in options if get_origin(option) in (tuple, list)), list)
    inside = get_args(wanted)
    if get_origin(wanted) is tuple and inside[-1] is not ...:
        return tuple(_typed(kind, each) for kind, each in zip(inside, value, strict=True))
    items = [_typed(inside[0] if inside else Any, each) for each in value]
    return tuple(items) if get_origin(wanted) is tuple else items
