"""Runs in MLflow's file layout, which `mlflow ui --backend-store-uri OUT` reads: no library of MLflow is needed.

One run for each cell and attacker. Its parameters are the settings and the winner's hyperparameters, its metrics the
figures of the summary; `tuning_psnr` has a step for each suggestion and `test_psnr` one for each test victim.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from orchestrator.analysis.lines import Line
from orchestrator.exports.tables import Tables
from orchestrator.results.folder import CLAIM

_LONGEST = 6000
"""Characters of a parameter's value that MLflow keeps."""

_FINISHED, _LOCAL = 3, 4
"""MLflow's numbers for the status of a run that has ended and for a source on this machine."""

_SETTINGS = ("cell", "attacker", "defense", "defense_params", "signal", "view", "labels", "differs")

_NAMED = re.compile(r"[^\w./ -]")


@dataclass(frozen=True)
class _Point:
    """A value of a metric at a step."""

    value: float
    step: int = 0


def write_runs(out: Path, tables: Tables, *, place: Path) -> None:
    """Write one experiment into `out`, which will lie at `place`. Raises `OSError` where that is impossible."""
    name = tables.results.name
    experiment = str(int(_digest(name)[:15], 16))
    root = place.resolve() / experiment
    begun = _moments(tables.results.rows)
    _write_meta(
        out / experiment,
        {
            "artifact_location": root.as_uri(),
            "creation_time": min(begun, default=0),
            "experiment_id": experiment,
            "last_update_time": max(begun, default=0),
            "lifecycle_stage": "active",
            "name": name,
        },
    )
    claim = tables.results.folder / CLAIM
    for line in tables.lines:
        run = _digest(name, line.cell, line.attacker)
        folder = out / experiment / run
        mine = tables.results.rows
        mine = mine[(mine["cell"] == line.cell) & (mine["attacker"] == line.attacker)]
        started = _moments(mine)
        _write_meta(
            folder,
            {
                "artifact_uri": f"{root.as_uri()}/{run}/artifacts",
                "end_time": max(started, default=0),
                "entry_point_name": "",
                "experiment_id": experiment,
                "lifecycle_stage": "active",
                "run_id": run,
                "run_name": line.name,
                "run_uuid": run,
                "source_name": "gradsweep",
                "source_type": _LOCAL,
                "source_version": "",
                "start_time": min(started, default=0),
                "status": _FINISHED,
                "tags": [],
                "user_id": "",
            },
        )
        at = max(started, default=0)
        for key, points in _metrics(line, tables).items():
            text = "".join(f"{at} {point.value!r} {point.step}\n" for point in points)
            _write(folder / "metrics" / key, text)
        for key, setting in _params(line).items():
            _write(folder / "params" / key, setting[:_LONGEST])
        for key, tag in _tags(line, mine).items():
            _write(folder / "tags" / key, tag)
        if claim.is_file():
            _write(folder / "artifacts" / CLAIM, claim.read_text(encoding="utf-8"))
        (folder / "artifacts").mkdir(exist_ok=True)


def _metrics(line: Line, tables: Tables) -> dict[str, list[_Point]]:
    figures = {
        name: [_Point(float(value))]
        for name, value in line.columns().items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }
    studies, prefix = tables.results.studies, f"{line.cell}/{line.attacker}"
    for name, told in studies[studies["state"] == "ok"].groupby("study"):
        study = str(name)
        if study == prefix or study.startswith(f"{prefix}/"):
            ending = study[len(prefix) :].replace("/", "_seed_")
            steps = zip(told["suggestion"], told["value"], strict=True)
            figures[f"tuning_psnr{ending}"] = [_Point(float(value), int(step)) for step, value in steps]
    tested = tables.results.tested(line.cell, line.attacker)
    for of, rows in tested[tested["status"] == "ok"].groupby("sweep_seed"):
        psnr = rows.groupby("victim")["psnr"].mean()
        ending = f"_seed_{of}" if line.seeds > 1 else ""
        figures[f"test_psnr{ending}"] = [
            _Point(float(value), int(str(victim))) for victim, value in psnr.items() if math.isfinite(value)
        ]
    return {key: points for key, points in figures.items() if points}


def _params(line: Line) -> dict[str, str]:
    columns = line.columns()
    found = {name: str(columns[name]) for name in _SETTINGS}
    searched = line.winner.params if line.winner else {}
    return found | {f"hp.{_NAMED.sub('_', name)}": _plain(value) for name, value in searched.items()}


def _tags(line: Line, rows: pd.DataFrame) -> dict[str, str]:
    commits = [commit for commit in rows["git_commit"].dropna().unique() if commit]
    tags = {"mlflow.runName": line.name, "mlflow.source.name": "gradsweep", "mlflow.source.type": "LOCAL"}
    if line.trials_failed:
        tags["failure"] = line.failure
    return tags | ({"mlflow.source.git.commit": str(commits[0])} if commits else {})


def _moments(rows: pd.DataFrame) -> list[int]:
    """When trials started, in milliseconds since 1970."""
    return [round(moment.timestamp() * 1000) for moment in rows["started_at"].dropna()]


def _write_meta(folder: Path, content: Mapping[str, Any]) -> None:
    """`meta.yaml`: every value as JSON, which YAML includes."""
    text = "".join(f"{key}: {json.dumps(value)}\n" for key, value in content.items())
    _write(folder / "meta.yaml", text)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _digest(*names: str) -> str:
    """32 hexadecimal digits, which is what MLflow's ids are."""
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()[:32]
