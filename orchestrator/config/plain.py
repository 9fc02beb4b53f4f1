"""Plain data and dataclasses: from one to the other and back."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from fl_core.base.errors import InputError
from orchestrator.config.explain import explain

T = TypeVar("T")

_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)
"""What pydantic knows of a type: some 10 ms to find out, and needed several times for every trial."""


def build(kind: type[T], tree: object, *, where: str) -> T:
    """`tree` (plain data) as a `kind`; raises `InputError` with the first thing that is wrong in it."""
    _check_numbers(tree, (), where)
    try:
        built: T = _adapter(kind).validate_json(json.dumps(tree))
        return built
    except ValidationError as error:
        raise explain(kind, tree, error, where=where) from error


def to_plain(config: object) -> Any:
    """A config dataclass as plain JSON data, such that `build` gives it back."""
    return json.loads(_adapter(type(config)).dump_json(config))


def _check_numbers(node: object, place: tuple[str, ...], where: str) -> None:
    """Raise `InputError` for a number that is not finite, or takes more than 64 bits: no setting can be one."""
    if isinstance(node, dict | list):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            _check_numbers(value, (*place, str(key)), where)
    elif isinstance(node, float) and not math.isfinite(node):
        raise InputError(f"{where}: {'.'.join(place)} = {node}: must be a finite number.")
    elif isinstance(node, int) and abs(node) >= 2**63:
        raise InputError(f"{where}: {'.'.join(place)}: must be a whole number of less than 19 digits.")
