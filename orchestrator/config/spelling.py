"""Other spellings in a sweep file and what they stand for: second names, own code, files, the input's shape."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fl_core.base.errors import InputError, hint, listed
from fl_core.base.own_code import OwnCode
from fl_core.models.weights import WeightsFile
from orchestrator.config.own import code_in

_INPUT = ("channels", "height", "width", "mean", "std")

SECOND_NAMES: Mapping[str, Mapping[str, str]] = {
    "study": {"feedback_delay": "lag", "random_suggestions": "startup"},
    "attackers": {"adaptive": "uses_facts", "algorithms": "families"},
}
"""The field's words for settings of a group whose own names are older; a sweep file may use either."""


def spell_names(tree: dict[str, Any], *, where: str) -> None:
    """Replace second names of settings by their own, in place; raises `InputError` where both are given."""
    for group, names in SECOND_NAMES.items():
        given = tree.get(group)
        entries = {f"{group}.{i}": entry for i, entry in enumerate(given)} if isinstance(given, list) else {}
        for place, settings in (entries or {group: given}).items():
            for second in [key for key in settings if key in names] if isinstance(settings, dict) else ():
                name = names[second]
                if name in settings:
                    raise InputError(
                        f"{where}: {place}.{second} and {place}.{name} are the same setting; leave one out."
                    )
                settings[name] = settings.pop(second)


def own_name(dotted: str) -> str:
    """The dotted path of a setting, where `dotted` may give it by its second name."""
    group, *rest = dotted.split(".")
    names = SECOND_NAMES.get(group, {})
    at = 1 if rest and rest[0].isdigit() else 0
    if len(rest) > at:
        rest[at] = names.get(rest[at], rest[at])
    return ".".join([group, *rest])


def anchor_files(tree: dict[str, Any], folder: Path) -> None:
    """Let every file that the networks in `tree` name be one in `folder`, in place, where its path is relative."""
    for _, settings, prefix in _models(tree):
        factory, weights = settings.get(f"{prefix}factory"), settings.get(f"{prefix}weights")
        if isinstance(factory, str):
            settings[f"{prefix}factory"] = code_in(factory, folder)
        if isinstance(weights, str):
            settings[f"{prefix}weights"] = file_in(weights, folder)


def file_in(name: str, folder: Path) -> str:
    """The file `name` in `folder`, where its path is relative."""
    return str(folder / Path(name).expanduser())


def spell_files(tree: dict[str, Any], *, where: str) -> None:
    """Replace every file that the networks in `tree` name by what it holds, in place.

    `model.factory` becomes the code's text, `model.weights` the file's place and digest, in the common settings and in
    the cells' `differs`. Raises `InputError` for files that cannot be read.
    """
    for place, settings, prefix in _models(tree):
        at = f"{where}: {place}"
        factory, weights = f"{prefix}factory", f"{prefix}weights"
        if isinstance(settings.get(factory), str):
            code = OwnCode.read(settings[factory], Path(), where=f"{at}{factory}")
            settings[factory] = dataclasses.asdict(code)
        if isinstance(settings.get(weights), str):
            file = WeightsFile.read(settings[weights], Path(), where=f"{at}{weights}")
            settings[weights] = dataclasses.asdict(file)


def spell_inputs(tree: dict[str, Any], *, where: str) -> None:
    """Replace `model.input` by the settings that it stands for, and leave classes that are not given to the data.

    `input: {channels, height, width, mean, std}` is `channels`, `image_size`, `mean` and `std`. Raises `InputError` for
    an input that lacks a side, has other keys, or stands beside the settings that it means.
    """
    for place, settings, prefix in _models(tree):
        given = settings.pop(f"{prefix}input", None)
        if given is not None:
            _spell_input(settings, given, prefix, where=f"{where}: {place}{prefix}input")
    model = tree.setdefault("model", {})
    if isinstance(model, dict):
        model.setdefault("classes", None)


def _spell_input(settings: dict[str, Any], given: object, prefix: str, *, where: str) -> None:
    if not isinstance(given, dict):
        raise InputError(f"{where}: must be a mapping with keys among {listed(_INPUT)}.")
    for key in given:
        if key not in _INPUT:
            raise InputError(
                f"{where}: unknown key {key!r}.{hint(str(key), _INPUT)} Known here: {listed(_INPUT)}."
            )
    if not {"height", "width"} <= given.keys():
        raise InputError(f"{where}: must have height and width, in pixels.")
    meant = {"image_size": [given["height"], given["width"]]}
    meant |= {key: given[key] for key in ("channels", "mean", "std") if key in given}
    for key, value in meant.items():
        if f"{prefix}{key}" in settings:
            raise InputError(
                f"{where}: must not stand beside {prefix}{key}, which it says too; leave one out."
            )
        settings[f"{prefix}{key}"] = value


def _models(tree: dict[str, Any]) -> list[tuple[str, dict[str, Any], str]]:
    """Every place that holds settings of a network: where it is, the mapping, and what its keys begin with."""
    found = []
    if isinstance(tree.get("model"), dict):
        found.append(("model.", tree["model"], ""))
    for owners in ("cells", "thresholds"):
        entries = tree.get(owners)
        for i, entry in enumerate(entries if isinstance(entries, list) else []):
            differs = entry.get("differs") if isinstance(entry, dict) else None
            if isinstance(differs, dict):
                found.append((f"{owners}.{i}.differs.", differs, "model."))
    return found
