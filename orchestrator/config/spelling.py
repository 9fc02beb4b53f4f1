"""Settings that a sweep file spells in short, replaced by what they stand for: own code, files, the input's shape."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from fl_core.base.errors import InputError, hint, listed
from fl_core.base.own_code import OwnCode
from fl_core.models.weights import WeightsFile

_INPUT = ("channels", "height", "width", "mean", "std")


def spell_files(tree: dict[str, Any], folder: Path, *, where: str) -> None:
    """Replace every file that the networks in `tree` name by what it holds, in place; relative paths are in `folder`.

    `model.factory` becomes the code's text, `model.weights` the file's place and digest, in the common settings and in
    the cells' `differs`. Raises `InputError` for files that cannot be read.
    """
    for place, settings, prefix in _models(tree):
        at = f"{where}: {place}"
        factory, weights = f"{prefix}factory", f"{prefix}weights"
        if isinstance(settings.get(factory), str):
            settings[factory] = dataclasses.asdict(
                OwnCode.read(settings[factory], folder, where=f"{at}{factory}")
            )
        if isinstance(settings.get(weights), str):
            settings[weights] = dataclasses.asdict(
                WeightsFile.read(settings[weights], folder, where=f"{at}{weights}")
            )


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
