"""Which sweep a results folder belongs to: the resolved config in `sweep.json`."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fl_core.base.errors import InputError, nearest
from orchestrator.config.plain import build, to_plain
from orchestrator.config.sweep import SweepConfig
from orchestrator.io.files import RESTORE, Damaged, read_json, write_json
from orchestrator.io.guard import refuse_links
from orchestrator.io.identity import content_hash
from orchestrator.io.places import check_folder_there
from orchestrator.io.whole import check_new
from orchestrator.results.there import CLAIM as CLAIM

FORMAT = 2

_LONG = 160
"""Longer values are not repeated whole in a message."""

_OF_THE_MACHINE = ("workers", "gpus_per_trial", "keep_captures")
"""Settings of `execution` that decide where trials run and what is kept, and no figure."""

_MAY_GROW = "A folder takes further cells and attackers, more seeds and test victims, larger budgets."

_GROWING = {"cells": "cell", "attackers": "attacker"}
"""Lists that may gain entries, and what one of them is called."""

_BUDGETS = ("suggestions", "seconds", "gpu_seconds")


@dataclass(frozen=True, kw_only=True)
class _File:
    """What `sweep.json` holds."""

    config: dict[str, Any]
    data: list[Any] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Whose a results folder is: the config, and as plain data the pictures that it was found to use."""

    config: SweepConfig
    data: tuple[Any, ...]


def read_claim(out: Path) -> Claim | None:
    """What a results folder notes of its sweep; None where it has no `sweep.json`. Raises `Damaged`."""
    path = out / CLAIM
    try:
        found = read_json(_File, path, version=FORMAT)
    except FileNotFoundError:
        return None
    try:
        return Claim(config=build(SweepConfig, found.config, where="config"), data=tuple(found.data))
    except InputError as error:
        raise Damaged.of(path, error, RESTORE) from error


def claimed(out: Path) -> SweepConfig | None:
    """The config that is noted in a results folder, with all strengths that were added to it; None where none is."""
    claim = read_claim(out)
    return claim.config if claim else None


def noted_sweep(folder: Path, data_root: str | None) -> SweepConfig:
    """The sweep of a results folder, its pictures at `data_root` where that is given.

    Raises `InputError` where there is no folder, or it notes no sweep.
    """
    check_folder_there(folder)
    config = claimed(folder)
    if config is None:
        raise InputError(
            f"{folder} holds no sweep: {folder / CLAIM} is missing; give the results folder of a sweep."
        )
    if data_root is None:
        return config
    return replace(config, data=replace(config.data, root=data_root))


def mergeable(folders: Sequence[Path], out: Path) -> SweepConfig:
    """The sweep that all `folders` are of, where they can be united in the new folder `out`; no trial is read.

    Raises `InputError` where a folder is given twice, notes another sweep or none, may not be written to or holds a
    link, and where something lies at `out`.
    """
    for folder in (*folders, out):
        refuse_links(folder)
    config = _common_config(folders)
    check_new(out, "merge")
    return config


def check_folder(out: Path, config: SweepConfig, *, finished: bool) -> bool:
    """Whether the folder is this config's; False where it is free, which is so while nothing in it is `finished`.

    Further cells and attackers, more seeds, more test victims, a larger budget of its studies, other refinements of its
    thresholds and other workers extend a sweep. Raises `InputError` where the folder holds results of another sweep, or
    of one that is not known.
    """
    try:
        there = claimed(out)
    except Damaged:
        if finished:
            raise
        return False
    if there is None:
        if finished:
            raise InputError(
                f"{out / CLAIM} is missing, and with it which sweep the trials there belong to; {RESTORE}."
            )
        return False
    different = _difference(to_plain(there), to_plain(config))
    if different and finished:
        raise InputError(f"{out} holds another sweep: {different}; use another --out. {_MAY_GROW}")
    return different is None


def claim_folder(out: Path, config: SweepConfig, data: Sequence[object] = (), *, ours: bool = False) -> None:
    """Note the config in the folder, and `data` with it.

    Where it was `ours` before, strengths that a refinement added stay noted.
    """
    there = claimed(out) if ours else None
    names = {cell.name for cell in config.cells}
    further = [cell for cell in there.cells if cell.name not in names] if there else []
    plain = to_plain(replace(config, cells=(*config.cells, *further)))
    write_json(out / CLAIM, {"format": FORMAT, "config": plain} | ({"data": list(data)} if data else {}))


def _common_config(folders: Sequence[Path]) -> SweepConfig:
    """The config of the first folder, after all others were found to have the same."""
    seen: set[Path] = set()
    for folder in folders:
        if folder.resolve() in seen:
            raise InputError(f"{folder} is given twice; name every folder once.")
        seen.add(folder.resolve())
    first = _writable(folders[0])
    for folder in folders[1:]:
        changed = first_difference(_of_any_machine(first), _of_any_machine(_writable(folder)))
        if changed:
            path, old, new = changed
            raise InputError(
                f"{folder} holds another sweep than {folders[0]}: {path} is {new} there and {old} here; "
                "only folders of one sweep can be merged."
            )
    return first


def _writable(folder: Path) -> SweepConfig:
    config = claimed(folder)
    if config is None:
        raise InputError(f"{folder} holds no sweep: {folder / CLAIM} is missing.")
    if not os.access(folder, os.W_OK):
        raise InputError(f"Cannot lock {folder} while it is merged: it must be writable.")
    return config


def _of_any_machine(config: SweepConfig) -> dict[str, Any]:
    plain: dict[str, Any] = to_plain(config)
    execution = {k: v for k, v in plain["execution"].items() if k not in _OF_THE_MACHINE}
    data = {k: v for k, v in plain["data"].items() if k != "root"}
    return plain | {"execution": execution, "data": data}


def _difference(old: dict[str, Any], new: dict[str, Any]) -> str | None:
    """What makes `new` another sweep than `old`."""
    before, now = _fixed(old), _fixed(new)
    for kind, what in _GROWING.items():
        names = [entry["name"] for entry in now[kind]]
        gone = next((entry["name"] for entry in before[kind] if entry["name"] not in names), None)
        if gone is not None:
            near = nearest(gone, names)
            renamed = f" (renamed to {near!r}? a trial is of its {what}'s name)" if near else ""
            return f"the {what} {gone!r} is gone{renamed}"
        entries = {entry["name"]: entry for entry in now[kind]}
        now[kind] = [entries[entry["name"]] for entry in before[kind]]
    changed = first_difference(before, now)
    if changed:
        return "{} was {} and is now {}".format(*changed)
    if new["seeds"] < old["seeds"]:
        return f"seeds was {old['seeds']} and may grow, not shrink to {new['seeds']}"
    return _smaller_budget(old["study"], new["study"])


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
    for weights in _weights_files(copy):
        weights.pop("file", None)  # A place: the digest says whether it is the same file.
    copy["data"].pop("root")  # A place: whether the same pictures lie there is checked by `used_data`.
    copy["victims"].pop("test")
    copy.pop("seeds")
    copy["execution"].pop("workers")
    copy["execution"].pop("gpus_per_trial", None)
    copy["execution"].pop("keep_captures")
    return copy


def _weights_files(plain: dict[str, Any]) -> list[dict[str, Any]]:
    """Every file of weights that a plain config names."""
    named = [
        plain["model"].get("weights"),
        *(cell["differs"].get("model.weights") for cell in plain["cells"]),
    ]
    return [weights for weights in named if isinstance(weights, dict)]


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
    return None if old == new else (path, _shown(old), _shown(new))


def _shown(value: Any) -> str:
    """A value as JSON; of a long one, such as the text of a file, its beginning and a hash that tells two apart."""
    text = json.dumps(value)
    return text if len(text) <= _LONG else f"{text[: _LONG // 2]}... (hash {content_hash(value)[:8]})"


def _named(entries: list[Any]) -> bool:
    return all(isinstance(entry, dict) and "name" in entry for entry in entries)


def _labels(entries: list[Any]) -> list[str]:
    return (
        [entry["name"] for entry in entries]
        if _named(entries)
        else [str(index) for index in range(len(entries))]
    )
