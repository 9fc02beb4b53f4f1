"""Builds small results folders through the real store, for the tests of analysis and report."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from PIL import Image

from orchestrator.config.sweep import SweepConfig
from orchestrator.results.folder import claim_folder
from orchestrator.results.schema import trials_schema
from orchestrator.results.store import FinishedTrial, ResultStore, Row, StudyRow, picture_rows
from orchestrator.results.utility_files import UTILITY, write_utility


def png(shade: int) -> bytes:
    """A grey picture of 8 x 8 pixels."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, shade, shade)).save(buffer, format="PNG")
    return buffer.getvalue()


def row(cell: str = "none", victim: int = 2, psnr: float | None = 15.0, **changes: Any) -> Row:
    """A test row of an attack that ended well, with a mean image of 11 dB and a prior of 9 dB."""
    plain: Row = {
        "image_id": f"{victim:06d}.jpg",
        "preselected": True,
        "sweep": "small",
        "cell": cell,
        "attacker": "generic",
        "phase": "test",
        "suggestion": None,
        "victim": victim,
        "status": "ok",
        "data": "synthetic:feed",
        "model": "cnn64",
        "defense": "none" if cell == "none" else "dp_update",
        "differs": "{}",
        "weights": "initial:feed",
        "weights_accuracy": 0.5,
        "defense_params": "[]" if cell == "none" else '[{"kind":"dp_update"}]',
        "threat": json.dumps({"view": None, "labels": "unknown", "knows_defense": True}),
        "signal": "gradients",
        "view": "individual",
        "batch_size": 1,
        "round": 0,
        "rounds": 3,
        "dp_against": None if cell == "none" else "server",
        "psnr": psnr,
        "psnr_oracle": psnr,
        "psnr_prior": 9.0,
        "psnr_mean_image": 11.0,
        "psnr_range4": None if psnr is None else psnr + 6.02,
        "ssim": None if psnr is None else 0.5,
        "method": "matching",
        "notes": "[]",
        "label_accuracy": None if psnr is None else 1.0,
        "label_match": None if psnr is None else True,
        "seconds": 4.0,
        "cpu_seconds": 4.0,
        "gpu_seconds": 0.0,
        "device": "cpu",
        "versions": json.dumps({"python": "3.11"}),
        "started_at": datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
    }
    return plain | changes


def failed_row(cell: str = "none", victim: int = 2, error: str = "lost", **changes: Any) -> Row:
    """The row of a trial that failed."""
    nothing = dict.fromkeys(("image_id", "psnr_prior", "psnr_mean_image", "method", "notes"))
    return row(cell, victim, None, status="failed", error=error) | nothing | changes


def trial(*rows: Row, pictures: bool = False) -> FinishedTrial:
    """A trial of these rows (images of one victim), its id made of what tells trials apart."""
    first = rows[0]
    kind = (first["cell"], first["attacker"], first["phase"], first["suggestion"], first["victim"])
    trial_id = "-".join(str(part) for part in kind)
    images = [
        (entry["image_id"], png(200), png(100) if entry["psnr"] is not None else None) for entry in rows
    ]
    return FinishedTrial(
        trial_id,
        tuple(entry | {"trial_id": trial_id} for entry in rows),
        picture_rows(trial_id, images) if pictures else (),
    )


def suggestion(number: int, value: float | None, study: str = "none/generic", **params: Any) -> StudyRow:
    """A suggestion that has been told; no value is a failure."""
    return StudyRow(study, number, params, "failed" if value is None else "ok", value, ())


def write_folder(
    folder: Path,
    trials: Sequence[FinishedTrial],
    *,
    suggestions: Sequence[StudyRow] = (),
    config: SweepConfig | None = None,
    utility: Mapping[str, Mapping[str, Any]] | None = None,
) -> Path:
    """Write a results folder; the path of it."""
    with ResultStore(folder, trials_schema([])) as store:
        for entry in suggestions:
            store.add_suggestion(entry)
        for finished in trials:
            store.add_trial(finished)
    if config is not None:
        claim_folder(folder, config)
    (folder / UTILITY).mkdir(exist_ok=True)
    measured = {"accuracy": 0.8, "low": 0.75, "high": 0.85, "majority": 0.6, "diverged": False}
    for cell, changes in (utility or {}).items():
        result = {"images": 100, "per_round": [0.8]} | measured | dict(changes)
        write_utility(folder / UTILITY / f"{cell}.json", cells=[cell], spec={}, result=result)
    return folder
