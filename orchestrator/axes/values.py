"""The axes as a sweep file gives them: their values, the names of these, and the settings that each stands for."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fl_core.base.errors import InputError, hint, listed
from orchestrator.axes.names import value_name

GROUPS = ("data", "model", "federation", "capture", "threat", "utility")
"""The groups of settings in which cells may differ."""

DEFENSE = "defense"
INCLUDE, EXCLUDE, NAME = "include", "exclude", "name"

Settings = dict[str, Any]
"""Values by dotted path; `defense` is the chain, and `defense.0.epsilon` a setting of it."""


@dataclass(frozen=True)
class Value:
    """One value of an axis: its part of a cell's name, what the file gives, and the settings that it stands for."""

    name: str
    given: object
    settings: Settings


@dataclass(frozen=True)
class Axis:
    """A dimension of the product: a setting's path, or a name of the user's own for settings that go together."""

    name: str
    values: tuple[Value, ...]
    known: Collection[str]

    @classmethod
    def read(cls, name: str, given: object, known: Collection[str], *, where: str) -> Axis:
        """`given` is a list of values, or a mapping of names to them.

        Raises `InputError` for an axis that is no setting and has no settings, and for values without different names.
        """
        at = f"{where}: axes.{name}"
        if is_setting(name):
            check_path(name, known, where=at)
        elif not (isinstance(given, dict) and all(isinstance(each, dict) for each in given.values())):
            raise _no_setting(name, given, known, where=at)
        if not isinstance(given, list | dict):
            example = f"[{json.dumps(given)}]" if not isinstance(given, str) else f"[{given}]"
            raise InputError(
                f"{at} = {json.dumps(given)}: must be a list of values, such as {example}, or a mapping of names to "
                "values."
            )
        if not given:
            raise InputError(f"{at}: must have at least one value.")
        pairs = given.items() if isinstance(given, dict) else ((None, value) for value in given)
        axis = cls(name, (), known)
        values = tuple(axis.value(value, name=own, where=at) for own, value in pairs)
        seen: dict[str, Value] = {}
        for value in values:
            twin = seen.setdefault(value.name, value)
            if twin is not value:
                raise InputError(
                    f"{at}: the values {_shown(twin.given)} and {_shown(value.given)} both have the name "
                    f"{value.name!r}; give names: {{NAME: VALUE, NAME: VALUE}}."
                )
        return cls(name, values, known)

    def value(self, given: object, *, name: str | None = None, where: str) -> Value:
        """A value, with the name that it was given or the one that is made from it."""
        if name is not None and not plain_name(name):
            raise InputError(
                f"{where}: the name {name!r} must be of letters, digits, . _ and -, not beginning with '.'."
            )
        if not is_setting(self.name):
            if not isinstance(given, dict):
                raise InputError(
                    f"{where}.{name} = {_shown(given)}: must be a mapping of dotted settings to their values."
                )
            return Value(str(name), given, read_settings(given, self.known, where=f"{where}.{name}"))
        value = chain(given, where=f"{where}.{name}" if name else where) if self.name == DEFENSE else given
        return Value(name or value_name(self.name, value), given, {self.name: value})

    def find(self, given: object) -> Value | None:
        """The value that is meant by its name, or by itself; None where it is none of the axis's."""
        for value in self.values:
            if same(value.given, given) or same(value.settings.get(self.name), given):
                return value
        return next((value for value in self.values if isinstance(given, str) and value.name == given), None)

    def unknown(self, given: object, *, where: str) -> InputError:
        """What to raise where `find` finds nothing and there must be something."""
        names = [value.name for value in self.values]
        near = hint(given if isinstance(given, str) else value_name(self.name, given), names)
        return InputError(
            f"{where}.{self.name} = {_shown(given)}: is no value of this axis.{near} Its values are {listed(names)}."
        )


@dataclass(frozen=True)
class Axes:
    """Everything under the key `axes`: the axes in their order, and the entries of `include` and `exclude`."""

    axes: tuple[Axis, ...]
    include: tuple[Mapping[str, Any], ...]
    exclude: tuple[Mapping[str, Any], ...]

    @classmethod
    def read(cls, given: object, known: Collection[str], *, where: str) -> Axes:
        """From plain data; an axis that is null is left out. Raises `InputError` for what is not as it must be."""
        if not isinstance(given, dict):
            raise InputError(
                f"{where}: axes must be a mapping of settings to their values, such as "
                "{federation.local.batch_size: [1, 4]}."
            )
        read = [
            Axis.read(name, values, known, where=where)
            for name, values in given.items()
            if name not in (INCLUDE, EXCLUDE) and values is not None
        ]
        _check_apart(read, where=where)
        entries = {}
        for part in (INCLUDE, EXCLUDE):
            entries[part] = given.get(part) or []
            if not isinstance(entries[part], list) or not all(
                isinstance(each, dict) for each in entries[part]
            ):
                raise InputError(f"{where}: axes.{part} must be a list of mappings of axes to their values.")
        return cls(tuple(read), tuple(entries[INCLUDE]), tuple(entries[EXCLUDE]))


def is_setting(name: str) -> bool:
    """Whether an axis of this name is one setting, and not a name for several."""
    return name == DEFENSE or ("." in name and name.partition(".")[0] in (*GROUPS, DEFENSE))


def plain_name(name: str) -> bool:
    """Whether `name` may be a part of a cell's name."""
    return bool(name) and name[0] != "." and all(letter.isalnum() or letter in "._-" for letter in name)


def check_path(path: str, known: Collection[str], *, where: str) -> None:
    """Raise `InputError` for a dotted path that leads to no setting in which cells may differ."""
    head = path.partition(".")[0]
    if head == DEFENSE:
        return  # What the chain has is known once there is one.
    if head not in GROUPS:
        raise InputError(
            f"{where}: cells cannot differ in {path!r}; must be a path into {', '.join(GROUPS)}, or {DEFENSE}."
            f"{hint(path, known)}"
        )
    if path not in known:
        inside = [each for each in known if each.startswith(f"{head}.")]
        raise InputError(
            f"{where}: no setting is at {path!r}.{hint(path, inside)} Known here: {listed(inside)}."
        )


def read_settings(given: Mapping[str, Any], known: Collection[str], *, where: str) -> Settings:
    """Settings by dotted path, checked by `check_path`; a chain of defenses in its full form."""
    for path in given:
        check_path(path, known, where=where)
    return {
        path: chain(value, where=f"{where}.{path}") if path == DEFENSE else value
        for path, value in given.items()
    }


def chain(given: object, *, where: str) -> list[Any]:
    """A chain of defenses: a list; one defense alone stands for itself, and null or `none` for no defense."""
    if given is None or given == "none":
        return []
    found = given if isinstance(given, list) else [given]
    if not all(isinstance(each, dict) and "kind" in each for each in found):
        raise InputError(
            f"{where} = {_shown(given)}: must be a list of defenses such as [{{kind: clip, max_norm: 1}}], or none."
        )
    return found


def same(one: object, other: object) -> bool:
    """Whether two plain values are the same setting: 1 and 1.0 are, 1 and true are not."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def slots(axes: object) -> Iterator[tuple[Any, Any, str]]:
    """Every place in plain `axes` that holds the value of a setting: the container, the key in it, the setting's path.

    Places of a form that there is not are left out: `Axes.read` says what is wrong with them.
    """
    for name, given in axes.items() if isinstance(axes, dict) else ():
        if name in (INCLUDE, EXCLUDE):
            for entry in given if isinstance(given, list) else ():
                yield from ((entry, key, key) for key in (list(entry) if isinstance(entry, dict) else ()))
        elif is_setting(name):
            keys: Iterable[Any] = range(len(given)) if isinstance(given, list) else given
            yield from ((given, key, name) for key in (list(keys) if isinstance(given, dict | list) else ()))
        else:
            for bundle in given.values() if isinstance(given, dict) else ():
                yield from ((bundle, key, key) for key in (list(bundle) if isinstance(bundle, dict) else ()))


def put_axis(tree: dict[str, Any], key: str, value: object) -> bool:
    """Set what `axes.PATH` names, a path with dots itself, or one of its named values; False for any other key."""
    head, _, rest = key.partition(".")
    first = rest.partition(".")[0]
    if head != "axes" or not rest or (first in (INCLUDE, EXCLUDE) and rest != first):
        return False
    axes = tree.get("axes")
    if axes is None:
        axes = tree["axes"] = {}
    if not isinstance(axes, dict):
        return False
    for name in axes:
        if rest.startswith(f"{name}.") and isinstance(axes[name], dict):
            axes[name][rest.removeprefix(f"{name}.")] = value
            return True
    axes[rest] = value
    return True


def _check_apart(axes: Iterable[Axis], *, where: str) -> None:
    """Raise `InputError` where two axes hold the same setting."""
    holders: dict[str, str] = {}
    for axis in axes:
        for path in {path for value in axis.values for path in value.settings}:
            other = holders.setdefault(path, axis.name)
            if other != axis.name:
                raise InputError(f"{where}: axes.{axis.name}: sets {path!r}, which axes.{other} sets too.")


def _no_setting(name: str, given: object, known: Collection[str], *, where: str) -> InputError:
    head = name.partition(".")[0]
    if head == "attackers":
        return InputError(f"{where}: every attacker meets every cell already; list them under attackers.")
    inner = (
        next((key for key, each in given.items() if not isinstance(each, dict)), None)
        if isinstance(given, dict)
        else None
    )
    if inner is not None and f"{name}.{inner}" in known:
        return InputError(
            f"{where}: a setting's axis has its whole path: write {name}.{inner}: [...] under axes."
        )
    if head in _NO_AXIS or "." in name:
        return InputError(
            f"{where}: cells cannot differ in {head!r}; an axis must be a path into {', '.join(GROUPS)}, or {DEFENSE}."
            f"{hint(name, known)}"
        )
    return InputError(
        f"{where}: is no setting.{hint(name, known)} An axis of a name of your own is a mapping of names to settings, "
        "such as {small: {model.kind: lenet, data.train: 100}}."
    )


_NO_AXIS = ("name", "seed", "seeds", "victims", "study", "execution", "cells", "thresholds")
"""Keys of a sweep file that all cells share."""


def _shown(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else f"{text[:80]}..."
