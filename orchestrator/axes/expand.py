"""From axes to cells: the product, without what `exclude` names, with what `include` adds."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fl_core.base.errors import InputError, hint, natural
from orchestrator.axes.names import joined, value_name
from orchestrator.axes.paths import put
from orchestrator.axes.values import (
    DEFENSE,
    EXCLUDE,
    INCLUDE,
    NAME,
    Axes,
    Axis,
    Settings,
    Value,
    plain_name,
    read_settings,
)

MOST_CELLS = 1000
"""So many cells may the axes of a sweep give."""
MOST_COMBINATIONS = 100_000
"""So many combinations may there be before `exclude`: more are not even counted out."""


@dataclass
class _Combination:
    """A value for each of some axes, by the axis's name, and settings that were added."""

    values: dict[str, Value]
    added: Settings = field(default_factory=dict)
    name: str = ""

    def matches(self, wanted: Mapping[str, Value]) -> bool:
        return all(self.values.get(name) is value for name, value in wanted.items())

    def cell(self, *, where: str) -> dict[str, Any]:
        """The cell as plain data, as a person would write it under `cells`."""
        name = self.name or joined(value.name for value in self.values.values())
        settings: Settings = {}
        for each in (*(value.settings for value in self.values.values()), self.added):
            settings |= copy.deepcopy(each)
        chain = settings.pop(DEFENSE, [])
        inner = {path: settings.pop(path) for path in list(settings) if path.startswith(f"{DEFENSE}.")}
        for path, value in inner.items():
            _put_defense(chain, path, value, cell=name, where=where)
        return {NAME: name, DEFENSE: chain, "differs": settings}


def expand(given: object, known: Collection[str], *, where: str) -> list[dict[str, Any]]:
    """The cells that `axes` stand for, as plain data: first the product, the first axis slowest, then what is added.

    `known` are the dotted paths of all settings in which cells may differ. An entry of `exclude` names values of some
    axes, and removes the combinations that have them all. An entry of `include` with a `name` is a cell of its own. One
    without adds its other settings to the combinations that have its values, and is a cell of its own where none has.
    Raises `InputError` for mistakes, and for too many cells.
    """
    axes = Axes.read(given, known, where=where)
    _check_size(axes.axes, where=where)
    found = [
        _Combination({axis.name: value for axis, value in zip(axes.axes, values, strict=True)})
        for values in itertools.product(*(axis.values for axis in axes.axes))
        if values
    ]
    by_name = {axis.name: axis for axis in axes.axes}
    for i, entry in enumerate(axes.exclude):
        wanted = _excluded(entry, by_name, where=f"{where}: axes.{EXCLUDE}.{i}")
        found = [each for each in found if not each.matches(wanted)]
    product = list(found)
    for i, entry in enumerate(axes.include):
        found += _included(entry, by_name, product, known, where=f"{where}: axes.{INCLUDE}.{i}")
    if not found:
        raise InputError(f"{where}: axes: {EXCLUDE} removes every combination; nothing is left to run.")
    if len(found) > MOST_CELLS:
        raise _too_many(axes.axes, len(found), MOST_CELLS, where=where)
    return [each.cell(where=where) for each in found]


def _check_size(axes: Iterable[Axis], *, where: str) -> None:
    count = math.prod(len(axis.values) for axis in axes)
    if count > MOST_COMBINATIONS:
        raise _too_many(axes, count, MOST_COMBINATIONS, where=where)


def _too_many(axes: Iterable[Axis], count: int, most: int, *, where: str) -> InputError:
    sizes = " x ".join(f"{axis.name} ({len(axis.values)})" for axis in axes)
    return InputError(
        f"{where}: axes: {sizes} gives {count:,} cells: must be at most {most:,}; take fewer values, exclude "
        "combinations, or make several sweeps."
    )


def _excluded(entry: Mapping[str, Any], axes: Mapping[str, Axis], *, where: str) -> dict[str, Value]:
    if not entry:
        raise InputError(f"{where}: names no axis; it would remove everything.")
    wanted = {}
    for name, given in entry.items():
        if name not in axes:
            raise InputError(
                f"{where}: {name!r} is no axis of this sweep.{hint(name, axes)} Its axes are {', '.join(axes)}."
            )
        value = axes[name].find(given)
        if value is None:
            raise axes[name].unknown(given, where=where)
        wanted[name] = value
    return wanted


def _included(
    entry: Mapping[str, Any],
    axes: Mapping[str, Axis],
    product: Iterable[_Combination],
    known: Collection[str],
    *,
    where: str,
) -> list[_Combination]:
    """The cells that an entry adds; where it adds settings to combinations of `product`, it does so in place."""
    name = entry.get(NAME)
    if name is not None and not (isinstance(name, str) and plain_name(name)):
        raise InputError(
            f"{where}.name = {name!r}: must be of letters, digits, . _ and -, not beginning with '.'."
        )
    values = {
        axis.name: _value(axis, entry[axis.name], where=where) for axis in axes.values() if axis.name in entry
    }
    others = {key: value for key, value in entry.items() if key != NAME and key not in axes}
    added = read_settings(others, [*known, *axes], where=where)
    if name is None:
        hits = [each for each in product if each.matches(values)]
        if hits and not added:
            raise InputError(
                f"{where}: adds nothing: the product has these values already; give it settings, or a name for a "
                "cell of its own."
            )
        for each in hits:
            each.added |= added
        if hits:
            return []
    if not values and not added and name is None:
        raise InputError(f"{where}: must have a name, values of axes, or settings.")
    parts = [value.name for value in values.values()] + [
        value_name(path, value) for path, value in added.items()
    ]
    return [_Combination(values, added, name or joined(parts))]


def _value(axis: Axis, given: object, *, where: str) -> Value:
    """One of the axis's values, or a new one where that is what is given."""
    found = axis.find(given)
    if found is not None:
        return found
    if (axis.name == DEFENSE and isinstance(given, str) and given != "none") or not any(
        axis.name in value.settings for value in axis.values
    ):
        raise axis.unknown(given, where=where)  # A name that the axis does not have.
    return axis.value(given, where=f"{where}.{axis.name}")


def _put_defense(chain: list[Any], path: str, value: object, *, cell: str, where: str) -> None:
    """Set `defense.0.epsilon` in a chain."""
    _, _, rest = path.partition(".")
    index, _, inner = rest.partition(".")
    at = natural(index)
    if at is None or not inner or at >= len(chain):
        raise InputError(
            f"{where}: axes.{path}, cell {cell}: must lead to a setting of one of this cell's {len(chain)} defenses, "
            "such as defense.0.epsilon; exclude the combination where it has none."
        )
    put({DEFENSE: chain}, path, value, where=f"{where}: cell {cell}: axes")
