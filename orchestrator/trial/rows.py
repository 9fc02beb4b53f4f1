"""What the table says of a trial: what its capture showed, what it ended with, a row for each true image."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fl_core.threat.captures import Victim
from fl_core.threat.model import View
from fl_core.threat.observation import published_noise_db
from orchestrator.capture.store import Capture
from orchestrator.config.own import shown
from orchestrator.config.space import Params
from orchestrator.io.identity import canonical
from orchestrator.results.schema import SUM_COSTS, hp_column, study_name
from orchestrator.results.store import Row
from orchestrator.trial.cell import Cell
from orchestrator.trial.run import TrialResult
from orchestrator.trial.score import ImageScore
from orchestrator.trial.spec import TrialSpec


@dataclass(frozen=True, kw_only=True)
class Released:
    """What rows say of one capture: the client (None for several), bytes that one client sent, and means over clients.

    The clip factor, and in dB the noise's energy over that of the signal that it was added to; `published_noise_db` is
    that of the server's noise on the mean, where it adds any. With them, under a secure sum, what it cost.
    """

    client: int | None
    bytes_up: int
    clip_factor: float | None = None
    noise_to_signal_db: float | None = None
    published_noise_db: float | None = None
    rounding_error: float | None = None
    setup_seconds: float | None = None
    protect_seconds: float | None = None
    add_seconds: float | None = None
    reveal_seconds: float | None = None

    @classmethod
    def of(cls, capture: Capture, victim: Victim) -> Released:
        """Read off a capture."""
        updates, opened = capture.record.updates, capture.record.aggregate
        plain = cls(
            client=victim.client if len(updates) == 1 else None,
            bytes_up=updates[0].bytes_up
            or sum(t.numel() * t.element_size() for t in updates[0].tensors.values()),
            clip_factor=_mean(update.clip_factor for update in updates),
            noise_to_signal_db=_mean(update.noise_to_signal_db for update in updates),
            published_noise_db=published_noise_db(capture.record),
        )
        if opened is None:
            return plain
        costs = {name: getattr(opened, name) for name in ("bytes_up", *SUM_COSTS)}
        return dataclasses.replace(plain, **costs)

    def columns(self, view: View) -> Row:
        """The columns, of noise that is in what `view` sees."""
        found = dataclasses.asdict(self)
        public = found.pop("published_noise_db")
        return found | ({"noise_to_signal_db": public} if view == "public" and public is not None else {})


def _mean(values: Iterable[float | None]) -> float | None:
    """Of the values that are there."""
    found = [value for value in values if value is not None]
    return sum(found) / len(found) if found else None


def rows_of(
    cell: Cell,
    spec: TrialSpec,
    result: TrialResult,
    *,
    params: Params,
    released: Released,
    accuracy: float | None,
    weights_accuracy: float | None,
    gpu_share: float,
    provenance: Row,
    cached: bool = False,
) -> tuple[Row, ...]:
    """A trial's rows: one for each true image, or one with a null `image_id` where it ended without scores.

    `gpu_share` is the share of a GPU that the trial's worker held, `provenance` which code ran it; `cached` says
    whether that was in another sweep.
    """
    attack = shown(spec.attack)
    common = cell.columns | provenance | released.columns(cell.columns["view"])
    common |= {
        "trial_id": spec.trial_id,
        "threat": canonical(spec.threat),
        "study": study_name(spec.cell, spec.attacker, seed=cell.settings.seed, first=cell.first),
        "attacker": spec.attacker,
        "phase": spec.phase,
        "suggestion": spec.suggestion,
        "victim": spec.victim,
        "attack": attack["kind"],
        "attack_params": json.dumps(attack, sort_keys=True),
        "prior": spec.prior,
        "seed": spec.seed,
        "restarts": spec.attack.restarts,
        "packing": result.packing,
        "accuracy": accuracy,
        "weights_accuracy": weights_accuracy,
        "gpu_seconds": 0.0 if spec.device == "cpu" else result.seconds * gpu_share,
        "convergence": json.dumps(result.convergence) if result.convergence else None,
        "cached": cached,
        "notes": None if result.notes is None else json.dumps(result.notes, ensure_ascii=False),
    }
    cost = ("iterations", "work", "candidates_failed", "seconds", "cpu_seconds", "device", "peak_memory_mb")
    kept = ("status", "error", "method", "label_accuracy", "match_loss", *cost, "host", "started_at")
    common |= {name: getattr(result, name) for name in kept}
    common |= {hp_column(name): value for name, value in params.items()}
    figures: list[dict[str, Any]] = [vars(score) for score in result.scores or (ImageScore(),)]
    return tuple(
        common
        | {"preselected": None if figure["image_id"] is None else i == 0}
        | {k: v for k, v in figure.items() if k not in ("original", "reconstruction")}
        for i, figure in enumerate(figures)
    )
