"""Finished trials in a cache that sweeps share: what decides a trial's figures, and what of it is kept."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.capture.used_data import DataCheck
from orchestrator.config.plain import to_plain
from orchestrator.config.sweep import SweepConfig
from orchestrator.io.cache import Cache, Entries
from orchestrator.io.files import sealed_text, typed, unsealed
from orchestrator.io.identity import canonical
from orchestrator.trial.cell import Cell
from orchestrator.trial.rows import Released
from orchestrator.trial.run import TrialResult
from orchestrator.trial.spec import TrialSpec

_FILE = "trial.json"

_NAMES = ("cell", "attacker", "phase", "suggestion")
"""Fields of a trial that name it in its sweep and decide no figure."""


@dataclass(frozen=True, kw_only=True)
class CachedTrial:
    """A finished trial, what rows say of its capture, and the run that measured it.

    `gpu_share` and `provenance` as `rows_of` takes them.
    """

    result: TrialResult
    released: Released
    gpu_share: float
    provenance: dict[str, str | None]


def entries_for(cache: Cache | None, settings: SweepConfig, data: DataCheck) -> Entries:
    """What a cache has for a cell: `settings` as it has them, `data` the check that admitted its pictures.

    Nothing where code of an installed module of the user's own takes part, because nobody knows its text.
    """
    if cache is None or _unknown_code(to_plain(settings)):
        return Entries()
    attacked, every = data.pictures(settings.cell.name, train=settings.data.train)
    return Entries(
        cache=cache,
        context={"device": settings.execution.device, "threads": settings.execution.threads},
        pictures={"weights": attacked, "captures": attacked, "trials": attacked, "accuracies": every},
    )


def cached(cell: Cell, spec: TrialSpec) -> CachedTrial | None:
    """The trial as another sweep has left it in the cell's cache."""

    def parse(files: Mapping[str, bytes]) -> CachedTrial:
        found = typed(CachedTrial, unsealed(files[_FILE])["trial"])
        scores = tuple(
            dataclasses.replace(
                score, original=_picture(score.original), reconstruction=_picture(score.reconstruction)
            )
            for score in found.result.scores
        )
        result = dataclasses.replace(found.result, trial_id=spec.trial_id, scores=scores)
        return dataclasses.replace(found, result=result)

    return cell.entries.read("trials", _key(cell, spec), parse)


def keep(
    cell: Cell,
    spec: TrialSpec,
    result: TrialResult,
    *,
    released: Released,
    gpu_share: float,
    provenance: Mapping[str, str | None],
) -> None:
    """Leave a finished trial in the cell's cache, where its figures are those that any run of it gives.

    That is not so for a failure, for a trial that had to do with less memory, and where a figure could not be taken.
    """
    lacking = spec.lpips and any(score.lpips is None and score.psnr is not None for score in result.scores)
    if result.status != "ok" or result.packing != spec.attack.together or lacking:
        return

    def files() -> dict[str, bytes]:
        trial = CachedTrial(
            result=result, released=released, gpu_share=gpu_share, provenance=dict(provenance)
        )
        text = json.dumps(dataclasses.asdict(trial), default=_text)
        return {_FILE: sealed_text({"trial": json.loads(text)})}

    cell.entries.write("trials", _key(cell, spec), files)


def _key(cell: Cell, spec: TrialSpec) -> dict[str, Any]:
    """All that decides the trial's figures beyond the entries' context: its spec, and what draws public images."""
    plain = json.loads(canonical(spec))
    return {
        "trial": {name: value for name, value in plain.items() if name not in _NAMES},
        "public": cell.settings.data.public,
        "seed": cell.settings.seed,
    }


def _text(value: object) -> str:
    """Pictures as base64, times in ISO 8601."""
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value.isoformat()  # type: ignore[attr-defined]


def _picture(value: bytes | None) -> bytes | None:
    return None if value is None else base64.b64decode(value, validate=True)


def _unknown_code(node: object) -> bool:
    """Whether settings name code whose text they do not hold."""
    if isinstance(node, Mapping):
        if {"module", "name", "source"} <= node.keys() and node["source"] is None:
            return True
        return any(map(_unknown_code, node.values()))
    return isinstance(node, list | tuple) and any(map(_unknown_code, node))
