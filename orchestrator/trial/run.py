"""Runs one trial: an attack on one observation, scored against the truth. Knows nothing of Ray, Optuna, Parquet."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

import torch

from attack_core.base.types import AttackFailed, Progress, Reconstruction
from attack_core.metrics.controls import norm_matched_noise
from attack_core.metrics.metrics import SSIM_WINDOW, label_accuracy
from fl_core.base.device import (
    cpu_threads,
    mps_fallback,
    out_of_memory,
    peak_mb,
    pick_device,
    reset_peak,
    synchronise,
)
from fl_core.base.errors import InputError, first_line
from fl_core.base.rng import generator
from fl_core.base.types import clipped_to_zeros
from fl_core.models.build import build_model
from fl_core.threat.observation import NotObservable, observe, truth_behind
from fl_core.threat.record import RoundRecord
from orchestrator.trial.convergence import Trace
from orchestrator.trial.memory import free, packings, ran_out
from orchestrator.trial.score import ImageScore, scores_of
from orchestrator.trial.spec import TrialInput, TrialSpec

Status = Literal["ok", "failed", "not_observable"]


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """What a trial ended with: status, one score for each true image (none if it failed), cost.

    `method` and `notes` are the attack's own words on what it did; `label_accuracy` is the share of the signal's
    labels that it found, in any order. All three are null without scores. `packing` is how many restarts were last
    run together: the attack's own setting, or less after memory had run out. `work` is how many images were
    differentiated twice: what the attack counted, or else what it planned (`Attack.cost`).
    `convergence` is what `Trace` kept.
    """

    trial_id: str
    status: Status
    error: str | None
    scores: tuple[ImageScore, ...]
    method: str | None
    notes: tuple[str, ...] | None
    label_accuracy: float | None
    match_loss: float | None
    convergence: tuple[tuple[int, float], ...]
    iterations: int | None
    work: float | None
    candidates_failed: int | None
    packing: int
    seconds: float
    cpu_seconds: float
    device: str
    peak_memory_mb: float
    host: str
    started_at: datetime


@dataclass(frozen=True)
class _Attacked:
    found: Reconstruction
    prior: Reconstruction | None
    seconds: float
    cpu_seconds: float
    unseen: str | None
    """What the threat model offers of the signal, and the client's defense keeps back."""


def run_trial(
    spec: TrialSpec, data: TrialInput, *, attempt: int = 0, progress: Progress | None = None
) -> TrialResult:
    """Attack what the threat model leaves of the record and score it.

    Attack failures and what the threat model hides become the result's status; bad input (`InputError`) and programming
    errors are raised. Where memory runs out, the trial runs once more with the next of its `packings`; `attempt` says
    with which of them to begin.
    """
    started, device, tries = datetime.now(UTC), pick_device(spec.device), packings(spec.attack)
    begin, cpu = time.perf_counter(), time.process_time()
    detail = ""
    with cpu_threads(spec.threads):
        for packing in tries[attempt:]:
            reset_peak(device)
            try:
                return _run(spec, packing, data, device, progress, started)
            except Exception as error:
                if not out_of_memory(error):
                    raise
                # The text alone: the traceback keeps the tensors of the attack alive.
                detail = first_line(error)
            free(device)
    return replace(
        unfinished(spec, f"{ran_out(tries)} on {device}: {detail}", packing=tries[-1]),
        seconds=time.perf_counter() - begin,
        cpu_seconds=time.process_time() - cpu,
        device=str(device),
        peak_memory_mb=peak_mb(device),
        host=socket.gethostname(),
        started_at=started,
    )


def trial_job(
    spec: TrialSpec, *parts: Any, attempt: int = 0, progress: Progress | None = None
) -> TrialResult:
    """What a worker does for a trial: put the shared parts of its `TrialInput` together, and run."""
    return run_trial(spec, TrialInput(*parts), attempt=attempt, progress=progress)


def unfinished(spec: TrialSpec, error: str, *, packing: int) -> TrialResult:
    """The failed result of a trial that has not come to its end: nothing in it was measured."""
    return TrialResult(
        trial_id=spec.trial_id,
        status="failed",
        error=error,
        scores=(),
        method=None,
        notes=None,
        label_accuracy=None,
        match_loss=None,
        convergence=(),
        iterations=None,
        work=None,
        candidates_failed=None,
        packing=packing,
        seconds=0.0,
        cpu_seconds=0.0,
        device=spec.device,
        peak_memory_mb=0.0,
        host="",
        started_at=datetime.now(UTC),
    )


def _run(
    spec: TrialSpec,
    packing: int,
    data: TrialInput,
    device: torch.device,
    progress: Progress | None,
    started: datetime,
) -> TrialResult:
    """One try, with `packing` restarts at a time."""
    if packing != spec.attack.together:
        spec = replace(spec, attack=spec.attack.packed(packing))
    record = data.whole_record
    begin, cpu = time.perf_counter(), time.process_time()
    error: str | None = None
    status: Status = "ok"
    attacked, trace = None, Trace(progress)
    try:
        data = replace(data, truth=truth_behind(record, spec.threat, data.truth))
        attacked = _attack(spec, record, data, device, trace)
    except NotObservable as hidden:
        status, error = "not_observable", str(hidden)
    except AttackFailed as failure:
        status, error = "failed", str(failure)
    except InputError as failure:
        # A signal that an attack cannot take (numbers that are not finite, say) is this trial's end only.
        status, error = "failed", str(failure)
    seconds = attacked.seconds if attacked else time.perf_counter() - begin
    cpu_seconds = attacked.cpu_seconds if attacked else time.process_time() - cpu
    return TrialResult(
        trial_id=spec.trial_id,
        status=status,
        error=error,
        scores=scores_of(spec, data, attacked.found, attacked.prior) if attacked else (),
        method=attacked.found.method if attacked else None,
        notes=_notes(attacked, record, device) if attacked else None,
        label_accuracy=label_accuracy(attacked.found.labels.cpu(), data.truth.example_labels())
        if attacked
        else None,
        match_loss=attacked.found.loss if attacked else None,
        convergence=trace.points,
        iterations=attacked.found.iterations if attacked else None,
        work=_work(spec, attacked.found, data) if attacked else None,
        candidates_failed=attacked.found.failed if attacked else None,
        packing=packing,
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        device=str(device),
        peak_memory_mb=peak_mb(device),
        host=socket.gethostname(),
        started_at=started,
    )


def _attack(
    spec: TrialSpec,
    record: RoundRecord,
    data: TrialInput,
    device: torch.device,
    progress: Progress,
) -> _Attacked:
    observation = observe(
        record, spec.threat, labels=data.truth.example_labels(), public_mean=data.mean_image
    ).to(device)
    model = build_model(record.model)
    synchronise(device)
    begin, cpu = time.perf_counter(), time.process_time()
    found = spec.attack(observation, model, generator("attack", spec.seed), progress=progress)
    synchronise(device)
    seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu
    prior = None
    if spec.control:
        noise = norm_matched_noise(observation, generator("control", spec.seed))
        try:
            prior = spec.attack(noise, model, generator("attack", spec.seed))
        except (AttackFailed, InputError):
            prior = None  # The control stays null; the attack itself stands.
    kept_back = spec.threat.sees_statistics and not observation.statistics
    unseen = (
        "the change of BatchNorm's statistics is not seen: the defense keeps it back" if kept_back else None
    )
    return _Attacked(found, prior, seconds, cpu_seconds, unseen)


def _work(spec: TrialSpec, found: Reconstruction, data: TrialInput) -> float:
    """How many images the attack differentiated twice."""
    if found.work is not None:
        return found.work
    return spec.attack.cost(len(data.truth.example_labels()))


def _notes(attacked: _Attacked, record: RoundRecord, device: torch.device) -> tuple[str, ...]:
    """The attack's own, and what the signal, the device's settings and the images' size add to them."""
    found = attacked.found
    not_finite = sum(update.not_finite for update in record.updates)
    clipped = clipped_to_zeros(not_finite) if not_finite else None
    tarnished = mps_fallback() if device.type == "mps" else None
    shape = record.model.shape
    small = f"no SSIM: its window of {SSIM_WINDOW} pixels does not fit into images of {shape.pixels}"
    watched = 1 + len(record.later)
    alone = found.rounds < watched and found.outcome != "prior"
    unused = f"{watched} rounds were watched, but this answer uses the first alone" if alone else None
    windowless = small if min(shape.height, shape.width) < SSIM_WINDOW else None
    added = (clipped, tarnished, unused, attacked.unseen, windowless)
    return (*found.notes, *(note for note in added if note is not None))
