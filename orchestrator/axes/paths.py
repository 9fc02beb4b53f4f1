"""Single values in plain data by their dotted paths."""

from __future__ import annotations

from typing import Any

from fl_core.base.errors import InputError, natural

_PATHS = "differs"
"""The mapping whose keys are dotted paths themselves."""


def put(tree: dict[str, Any], dotted: str, value: object, *, where: str) -> None:
    """Set `tree[a][b]` for the key `a.b`; numbers index lists; missing mappings are made.

    What follows `differs` is one key of it, as a cell writes it: `cells.0.differs.capture.round` sets `capture.round`
    and leaves a `capture.signal` there alone. Raises `InputError` for a path through a value or past a list's end.
    """
    *parents, last = _keys(dotted)
    node: Any = tree
    for part in parents:
        if isinstance(node, list):
            node = node[_index(node, part, dotted, where)]
        elif isinstance(node, dict):
            if node.get(part) is None:
                node[part] = {}
            node = node[part]
    if isinstance(node, list):
        node[_index(node, last, dotted, where)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise InputError(f"{where} {dotted}: {'.'.join(parents)} is a value, not a group of settings.")


def _keys(dotted: str) -> list[str]:
    parts = dotted.split(".")
    if _PATHS not in parts[:-1]:
        return parts
    at = parts.index(_PATHS) + 1
    return [*parts[:at], ".".join(parts[at:])]


def _index(items: list[Any], part: str, dotted: str, where: str) -> int:
    index = natural(part)
    if index is not None and index < len(items):
        return index
    raise InputError(f"{where} {dotted}: {part!r} must be a list position from 0 to {len(items) - 1}.")
