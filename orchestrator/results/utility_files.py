"""The accuracies in a results folder: one file for each training run, named by the hash of what it depends on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.io.files import Damaged, read_json, write_json
from orchestrator.io.identity import content_hash
from orchestrator.results.folder import FORMAT

UTILITY = "utility"

_REMEDY = "remove it to have it measured again"


@dataclass(frozen=True, kw_only=True)
class UtilityFile:
    """A training run: the cells that share it, all that it depends on, and what it found."""

    cells: tuple[str, ...]
    spec: dict[str, Any]
    result: UtilityResult


def utility_paths(folder: Path) -> list[Path]:
    """The files that a results folder has."""
    return sorted((folder / UTILITY).glob("[!_.]*.json"))


def read_utility(path: Path) -> UtilityFile:
    """One file; raises `Damaged` where it holds something else than was written."""
    found = read_json(UtilityFile, path, version=FORMAT, remedy=_REMEDY)
    if not found.cells:
        raise Damaged.of(path, "it names no cell", _REMEDY)
    return found


def write_utility(path: Path, *, cells: Iterable[str], spec: object, result: object) -> None:
    """Write one file, from plain data."""
    write_json(path, {"format": FORMAT, "cells": list(cells), "spec": spec, "result": result})


def utilities(folder: Path) -> dict[str, tuple[UtilityResult, ...]]:
    """The accuracy by cell, where it was measured: a result for each of its trainings, which differ in their seed."""
    found: dict[str, dict[str, list[UtilityResult]]] = {}
    for path in utility_paths(folder):
        content = read_utility(path)
        same = content_hash({name: value for name, value in content.spec.items() if name != "seed"})
        for cell in content.cells:
            found.setdefault(cell, {}).setdefault(same, []).append(content.result)
    longest = {cell: max(runs.values(), key=len) for cell, runs in found.items()}
    return {cell: tuple(results) for cell, results in longest.items()}


@dataclass(frozen=True, kw_only=True)
class UtilityResult:
    """Accuracy on the validation images after each round, with the majority class beside it.

    `low` and `high` are the exact binomial 95% interval of the last round's accuracy. `diverged` says that the
    weights stopped being finite, or an update so large that its secure sum refused it, which ends the training; the
    accuracy is then that of the last weights. `not_finite` counts what held NaN or infinity in the whole run and was
    clipped to zeros: clients' updates, or single examples' gradients.
    """

    accuracy: float
    low: float
    high: float
    majority: float
    images: int
    per_round: tuple[float, ...]
    diverged: bool
    not_finite: int = 0
