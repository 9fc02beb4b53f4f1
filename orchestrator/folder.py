"""Whose results a folder holds: the resolved config in `sweep.json`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fl_core.errors import InputError
from orchestrator.config import SweepConfig
from orchestrator.files import read_json, write_atomically
from orchestrator.parse import build, to_plain

FORMAT = 2
CLAIM = "sweep.json"

_BUDGETS = ("suggestions", "seconds", "gpu_seconds")


def claim_folder(out: Path, config: SweepConfig, data: Sequence[object] = ()) -> None:
    """Note the config in the folder, or check that the folder is this config's; `data` is noted with it.

    A larger budget of its studies, more test victims, other refinements of its thresholds and other workers extend a
    sweep; anything else needs a new folder. Strengths that a refinement added stay noted.
    """
    path = out / CLAIM
    plain = to_plain(config)
    if path.is_file():
        there = read_json(path, version=FORMAT)
        changed = first_difference(_fixed(there["config"]), _fixed(plain))
        different = changed and "{} was {} and is now {}".format(*changed)
        if different is None:
            different = _smaller_budget(there["config"]["study"], plain["study"])
        if different:
            raise InputError(f"{out} holds another sweep: {different}; use another --out.")
        names = {cell["name"] for cell in plain["cells"]}
        plain["cells"] += [cell for cell in there["config"]["cells"] if cell["name"] not in names]
    content = {"format": FORMAT, "config": plain} | ({"data": list(data)} if data else {})
    write_atomically(path, json.dumps(content, indent=1).encode())


def claimed(out: Path) -> SweepConfig | None:
    """The config that is noted in a results folder, with all strengths that were added to it; None where none is."""
    path = out / CLAIM
    if not path.is_file():
        return None
    return build(SweepConfig, read_json(path, version=FORMAT)["config"], where=str(path))


def _smaller_budget(old: dict[str, Any], new: dict[str, Any]) -> str | None:
    for name in _BUDGETS:
        before, now = old.get(name), new.get(name)
        if (before is None) != (now is None):
            return f"study.{name} was {json.dumps(before)} and is now {json.dumps(now)}"
        if before is not None and now < before:
            return f"study.{name} was {before} and may grow, not shrink to {now}"
    return None


def _fixed(plain: dict[str, Any]) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(plain))
    for name in (*_BUDGETS, "storage"):
        copy["study"].pop(name, None)
    searched = tuple(f"{threshold['name']}_" for threshold in copy.get("thresholds", ()))
    copy["cells"] = [cell for cell in copy["cells"] if not cell["name"].startswith(searched)]
    for threshold in copy.get("thresholds", ()):
        threshold.pop("refine", None)
    copy["data"].pop("root")  # A place: whether the same pictures lie there is checked by `used_data`.
    copy["victims"].pop("test")
    copy["execution"].pop("workers")
    copy["execution"].pop("gpus_per_trial", None)
    copy["execution"].pop("keep_captures")
    return copy


def first_difference(old: Any, new: Any, path: str = "") -> tuple[str, str, str] | None:
    """Where two plain configs part first, in the order of their keys: dotted path, old and new value as JSON.

    Entries of a list go by their names where they have any, else by their index; lists of other entries part whole.
    """
    if isinstance(old, list) and isinstance(new, list):
        before, now = _labels(old), _labels(new)
        if before != now:
            return (
                (path, json.dumps(before), json.dumps(now)) if _named(old + new) else _parted(old, new, path)
            )
        old, new = dict(zip(before, old, strict=True)), dict(zip(now, new, strict=True))
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            found = first_difference(old.get(key), new.get(key), f"{path}.{key}" if path else key)
            if found:
                return found
        return None
    return _parted(old, new, path)


def _parted(old: Any, new: Any, path: str) -> tuple[str, str, str] | None:
    return None if old == new else (path, json.dumps(old), json.dumps(new))


def _named(entries: list[Any]) -> bool:
    return all(isinstance(entry, dict) and "name" in entry for entry in entries)


def _labels(entries: list[Any]) -> list[str]:
    return (
        [entry["name"] for entry in entries]
        if _named(entries)
        else [str(index) for index in range(len(entries))]
    )
