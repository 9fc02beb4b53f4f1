"""Runs trials: attacks on observations, scored against the truth. Knows nothing of Ray, Optuna, Parquet."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

import torch

from attack_core.attacks.loading import load
from attack_core.attacks.registry import AnyAttack
from attack_core.base.programs.ways import runner_of
from attack_core.base.search import Ended, side_by_side
from attack_core.base.types import AttackFailed, Progress, Reconstruction
from attack_core.metrics.controls import norm_matched_noise
from attack_core.metrics.metrics import SSIM_WINDOW, label_accuracy
from fl_core.base.device import (
    cpu_threads,
    mps_fallback,
    out_of_memory,
    peak_mb,
    pick_device,
    precision_of,
    reset_peak,
    synchronise,
)
from fl_core.base.errors import InputError, first_line
from fl_core.base.rng import generator
from fl_core.base.types import clipped_to_zeros
from fl_core.models.build import build_model
from fl_core.threat.observation import NotObservable, Observation, observe, truth_behind
from fl_core.threat.record import RoundRecord
from orchestrator.trial.convergence import Trace
from orchestrator.trial.memory import free, packings, ran_out
from orchestrator.trial.score import ImageScore, scores_of
from orchestrator.trial.spec import REPORTED, TrialInput, TrialSpec

Status = Literal["ok", "failed", "not_observable"]

log = logging.getLogger(__name__)


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
class _Victim:
    """A trial that begins: its truth as far as the threat model shows it, and what the attacker sees or why nothing.

    `attack` is the spec's, as it runs here.
    """

    spec: TrialSpec
    attack: AnyAttack
    data: TrialInput
    record: RoundRecord
    observation: Observation | None
    refused: NotObservable | InputError | None
    trace: Trace


def run_trial(
    spec: TrialSpec, data: TrialInput, *, attempt: int = 0, progress: Progress | None = None
) -> TrialResult:
    """Attack what the threat model leaves of the record and score it.

    Attack failures and what the threat model hides become the result's status; bad input (`InputError`) and programming
    errors are raised. Where memory runs out, the trial runs again with the next of its `packings`; `attempt` says with
    which of them to begin.
    """
    load()
    started, device, tries = datetime.now(UTC), pick_device(spec.device), packings(spec.attack)
    begin, cpu = time.perf_counter(), time.process_time()
    detail = ""
    with cpu_threads(spec.threads), precision_of(spec.precision):
        for packing in tries[attempt:]:
            reset_peak(device)
            try:
                return _run([(spec, data)], packing, device, progress, started)[0]
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


def run_trials(
    trials: Sequence[tuple[TrialSpec, TrialInput]], *, progress: Progress | None = None
) -> list[TrialResult | Exception]:
    """What `run_trial` gives for each, or raises, up to rounding: attacked in one program on one device.

    Seconds are those of all, in equal shares. Where anything is raised meanwhile, memory that runs out for instance,
    each runs by itself.
    """
    load()
    spec = trials[0][0]
    device = pick_device(spec.device)
    with cpu_threads(spec.threads), precision_of(spec.precision):
        reset_peak(device)
        try:
            return list(_run(trials, spec.attack.together, device, progress, datetime.now(UTC)))
        except Exception as error:
            log.info("%d trials run one by one after %s", len(trials), first_line(error))
        free(device)
    return [_caught(*trial, progress=progress) for trial in trials]


def trial_job(
    spec: TrialSpec, *parts: Any, attempt: int = 0, progress: Progress | None = None
) -> TrialResult:
    """What a worker does for a trial: put the shared parts of its `TrialInput` together, and run."""
    return run_trial(spec, TrialInput(*parts), attempt=attempt, progress=progress)


def trials_job(
    specs: Sequence[TrialSpec],
    places: Sequence[Sequence[int]],
    *parts: Any,
    progress: Progress | None = None,
) -> list[TrialResult | Exception]:
    """The same for several: `places` say which of the `parts` make each one's `TrialInput`; many share some."""
    inputs = [TrialInput(*(parts[place] for place in own)) for own in places]
    return run_trials(list(zip(specs, inputs, strict=True)), progress=progress)


def _caught(spec: TrialSpec, data: TrialInput, *, progress: Progress | None) -> TrialResult | Exception:
    try:
        return run_trial(spec, data, progress=progress)
    except Exception as error:
        return error


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
    trials: Sequence[tuple[TrialSpec, TrialInput]],
    packing: int,
    device: torch.device,
    progress: Progress | None,
    started: datetime,
) -> list[TrialResult]:
    """One try, with `packing` restarts at a time; the first one's `progress` is told."""
    victims = [
        _victim(spec, data, packing, device, None if i else progress) for i, (spec, data) in enumerate(trials)
    ]
    synchronise(device)
    begin, cpu = time.perf_counter(), time.process_time()
    found = _attack(victims, [victim.observation for victim in victims], [each.trace for each in victims])
    synchronise(device)
    seconds = (time.perf_counter() - begin) / len(victims)
    cpu_seconds = (time.process_time() - cpu) / len(victims)
    priors = _attack(victims, _noise(victims, found), [None] * len(victims))
    return [
        _result(
            victim,
            ended,
            None if prior is None else prior.found,
            packing=packing,
            seconds=seconds,
            cpu_seconds=cpu_seconds,
            device=device,
            started=started,
        )
        for victim, ended, prior in zip(victims, found, priors, strict=True)
    ]


def _victim(
    spec: TrialSpec, data: TrialInput, packing: int, device: torch.device, progress: Progress | None
) -> _Victim:
    """The trial with what its attacker sees on `device`, or why that is nothing."""
    attack = spec.attack if packing == spec.attack.together else spec.attack.packed(packing)
    if spec.phase not in REPORTED:
        attack = attack.uncertified()
    record, trace = data.whole_record, Trace(progress)
    try:
        data = replace(data, truth=truth_behind(record, spec.threat, data.truth))
        labels = data.truth.example_labels()
        seen = observe(record, spec.threat, labels=labels, public_mean=data.mean_image, prior=data.prior)
    except (NotObservable, InputError) as refused:
        return _Victim(spec, attack, data, record, None, refused, trace)
    return _Victim(spec, attack, data, record, seen.to(device), None, trace)


def _attack(
    victims: Sequence[_Victim],
    observations: Sequence[Observation | None],
    progress: Sequence[Progress | None],
) -> list[Ended[Reconstruction] | None]:
    """How each victim's attack on its observation ended, all in one program; None where there is none.

    Raises what is no failure of an attack and no fault of a signal.
    """
    searches = {
        number: victim.attack.search(
            seen, build_model(victim.record.model), generator("attack", victim.spec.seed), progress=told
        )
        for number, (victim, seen, told) in enumerate(zip(victims, observations, progress, strict=True))
        if seen is not None
    }
    runner = runner_of(victims[0].spec.programs)
    ended = dict(zip(searches, side_by_side(list(searches.values()), runner), strict=True))
    for each in ended.values():
        # A signal that an attack cannot take (numbers that are not finite, say) is this trial's end only.
        if not isinstance(each.error, AttackFailed | InputError | None):
            raise each.error
    return [ended.get(number) for number in range(len(victims))]


def _noise(
    victims: Sequence[_Victim], found: Sequence[Ended[Reconstruction] | None]
) -> list[Observation | None]:
    """What the control attacks: noise of each signal's norm, where the trial has a control and its attack an answer."""
    return [
        norm_matched_noise(victim.observation, generator("control", victim.spec.seed))
        if victim.spec.control and victim.observation and ended and ended.error is None
        else None
        for victim, ended in zip(victims, found, strict=True)
    ]


def _result(
    victim: _Victim,
    ended: Ended[Reconstruction] | None,
    prior: Reconstruction | None,
    *,
    packing: int,
    seconds: float,
    cpu_seconds: float,
    device: torch.device,
    started: datetime,
) -> TrialResult:
    """What a trial ended with; a control that failed is null, and the attack itself stands."""
    spec, data = victim.spec, victim.data
    found, error = (ended.found, ended.error) if ended else (None, victim.refused)
    status: Status = "ok" if found else "not_observable" if isinstance(error, NotObservable) else "failed"
    return TrialResult(
        trial_id=spec.trial_id,
        status=status,
        error=None if error is None else str(error),
        scores=scores_of(spec, data, found, prior) if found else (),
        method=found.method if found else None,
        notes=_notes(victim, found, device) if found else None,
        label_accuracy=label_accuracy(found.labels.cpu(), data.truth.example_labels()) if found else None,
        match_loss=found.loss if found else None,
        convergence=victim.trace.points,
        iterations=found.iterations if found else None,
        work=_work(spec, found, data) if found else None,
        candidates_failed=found.failed if found else None,
        packing=packing,
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        device=str(device),
        peak_memory_mb=peak_mb(device),
        host=socket.gethostname(),
        started_at=started,
    )


def _work(spec: TrialSpec, found: Reconstruction, data: TrialInput) -> float:
    """How many images the attack differentiated twice."""
    if found.work is not None:
        return found.work
    return spec.attack.cost(len(data.truth.example_labels()))


def _notes(victim: _Victim, found: Reconstruction, device: torch.device) -> tuple[str, ...]:
    """The attack's own, and what the prior, the signal, the device's settings and the images' size add to them."""
    spec, record, seen = victim.spec, victim.record, victim.observation
    learned = None
    if spec.prior is not None:
        source, _, pictures = spec.prior.split()[0].rpartition(":")
        learned = f"with a prior trained on {pictures} public pictures of {source}"
    kept_back = spec.threat.sees_statistics and seen is not None and not seen.statistics
    unseen = (
        "the change of BatchNorm's statistics is not seen: the defense keeps it back" if kept_back else None
    )
    not_finite = sum(update.not_finite for update in record.updates)
    clipped = clipped_to_zeros(not_finite) if not_finite else None
    tarnished = mps_fallback() if device.type == "mps" else None
    shape = record.model.shape
    small = f"no SSIM: its window of {SSIM_WINDOW} pixels does not fit into images of {shape.pixels}"
    watched = 1 + len(record.later)
    alone = found.rounds < watched and found.outcome != "prior"
    unused = f"{watched} rounds were watched, but this answer uses the first alone" if alone else None
    windowless = small if min(shape.height, shape.width) < SSIM_WINDOW else None
    added = (learned, clipped, tarnished, unused, unseen, windowless)
    return (*found.notes, *(note for note in added if note is not None))
