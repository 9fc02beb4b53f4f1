"""Names of cells, made from the values of their axes: a value has the same name whatever stands beside it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import PurePath

LONGEST_PART = 60
"""So many characters may one value give to a cell's name."""
LONGEST_JOINED = 150
"""So many may they all give together."""

_FILES = ("model.weights", "data.root")


def value_name(path: str, value: object) -> str:
    """The name of a setting's value, of letters, digits, `.` and `-`.

    `capture.round` 5 is `round-5`, `model.kind` lenet is `lenet`, `federation.flip` false is `no-flip`, a chain of
    defenses is their kinds with their settings, such as `clip-1-noise-0.01`, and no defense is `none`. What is too long
    is cut, and ends with a hash of the value.
    """
    return _cut(_plain(_named(path, value)), value, LONGEST_PART)


def joined(names: Iterable[str]) -> str:
    """A cell's name from the names of its values, in the order of the axes."""
    parts = list(names)
    return _cut("_".join(parts), parts, LONGEST_JOINED)


def _named(path: str, value: object) -> str:
    leaf = path.rpartition(".")[2]
    if path == "defense":
        chain = value if isinstance(value, list) else [value]
        return "-".join(_defense(each) for each in chain) or "none"
    if value is None or value is False:
        return f"no-{leaf}"
    if value is True:
        return leaf
    if isinstance(value, str):
        return PurePath(value).stem if path in _FILES else value.rpartition(":")[2]
    return f"{leaf}-{_value(value)}"


def _defense(defense: object) -> str:
    """The kind, and the values of its settings; with their names where it has several."""
    if not isinstance(defense, dict):
        return _value(defense)
    kind = str(defense.get("kind", "")).rpartition(":")[2]
    settings = {key: value for key, value in sorted(defense.items()) if key != "kind"}
    if len(settings) == 1:
        return f"{kind}-{_value(next(iter(settings.values())))}"
    return "-".join([kind, *(f"{key}-{_value(value)}" for key, value in settings.items())])


def _value(value: object) -> str:
    if isinstance(value, dict):
        return "-".join(f"{key}-{_value(each)}" for key, each in sorted(value.items()))
    if isinstance(value, list):
        return "-".join(map(_value, value))
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "null"}[value]
    # 1e-05 is 1e-5, and 8.0 is 8: one number has one name.
    return (
        re.sub(r"e([+-])0*", lambda found: f"e{found[1].strip('+')}", f"{value!r}").removesuffix(".0")
        if isinstance(value, float)
        else str(value)
    )


def _plain(name: str) -> str:
    """With nothing but letters, digits, `.` and `-`, and without a dot in front."""
    return re.sub(r"[^\w.-]|_", "-", name).lstrip(".")


def _cut(name: str, value: object, longest: int) -> str:
    if name and len(name.encode()) <= longest:
        return name
    digest = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]
    kept = name.encode()[: longest - 9].decode(errors="ignore")
    return f"{kept}-{digest}" if kept else digest
