"""One trial: an attack on one observation, scored against the truth. Knows nothing of Ray, Optuna or Parquet."""

from __future__ import annotations

import gc
import io
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from typing import Literal

import torch
from PIL import Image

from attack_core.attacks.registry import AnyAttack
from attack_core.base.types import AttackFailed, Progress, Reconstruction
from attack_core.metrics.controls import norm_matched_noise
from attack_core.metrics.metrics import (
    SSIM_WINDOW,
    Lpips,
    assign,
    label_accuracy,
    load_lpips,
    mse,
    psnr,
    psnr_range4,
    ssim,
    to_unit,
)
from fl_core.base.device import blanket_fallback, peak_mb, pick_device, reset_peak, synchronise
from fl_core.base.errors import InputError, first_line
from fl_core.base.rng import generator
from fl_core.base.types import ModelState, Truth, clipped_to_zeros
from fl_core.models.zoo import build_model
from fl_core.threat.model import ThreatModel
from fl_core.threat.observation import NotObservable, Observation, observe, truth_behind
from fl_core.threat.record import RoundRecord
from orchestrator.io.identity import content_hash
from orchestrator.trial.public import PublicAnswers

_OUT_OF_MEMORY = ("DefaultCPUAllocator: ", "MPS backend out of memory", "std::bad_alloc")
"""What the messages of allocators hold that raise nothing more special than a `RuntimeError`."""


Phase = Literal["tune", "test", "grid", "control"]


Status = Literal["ok", "failed", "not_observable"]


@dataclass(frozen=True, kw_only=True)
class TrialSpec:
    """A trial as pure data; two trials are the same exactly if their specs are.

    `capture` is the capture's key, `victim` its position in the cell's list of victims. `seed` fixes the
    attack's randomness. `threads` is part of it because it changes rounding.
    """

    cell: str
    attacker: str
    phase: Phase
    suggestion: int | None
    victim: int
    capture: str
    attack: AnyAttack
    threat: ThreatModel
    seed: int
    device: str
    threads: int
    control: bool = False
    lpips: bool = False
    images: bool = False

    @cached_property
    def trial_id(self) -> str:
        """The hash of the spec's canonical JSON."""
        return content_hash(self)


@dataclass(frozen=True, kw_only=True)
class ImageScore:
    """One true image's figures; null where nothing was reconstructed for it, `image_id` too where a trial failed.

    `psnr*` in dB with range 1 (`psnr_range4`: range 4); `psnr_oracle` is the best over all candidates,
    `psnr_prior` the same attack's on norm-matched noise, `psnr_mean_image` the mean public image's,
    `psnr_public` and `psnr_groups` those of `PublicAnswers` in the place of several images.
    """

    image_id: str | None = None
    psnr: float | None = None
    psnr_oracle: float | None = None
    psnr_prior: float | None = None
    psnr_mean_image: float | None = None
    psnr_public: float | None = None
    psnr_groups: float | None = None
    psnr_range4: float | None = None
    ssim: float | None = None
    lpips: float | None = None
    mse: float | None = None
    label_match: bool | None = None
    original: bytes | None = None
    reconstruction: bytes | None = None


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """What a trial ended with: status, one score for each true image (none if it failed), cost.

    `method` and `notes` are the attack's own words on what it did; `label_accuracy` is the share of the signal's
    labels that it found, in any order. All three are null without scores. `packing` is how many restarts were last
    run together: the attack's own setting, or less after memory had run out.
    """

    trial_id: str
    status: Status
    error: str | None
    scores: tuple[ImageScore, ...]
    method: str | None
    notes: tuple[str, ...] | None
    label_accuracy: float | None
    match_loss: float | None
    iterations: int | None
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
    observation: Observation
    found: Reconstruction
    prior: Reconstruction | None
    seconds: float
    cpu_seconds: float


def run_trial(
    spec: TrialSpec,
    record: RoundRecord,
    truth: Truth,
    mean_image: torch.Tensor | None,
    public: PublicAnswers | None = None,
    *,
    attempt: int = 0,
    progress: Progress | None = None,
) -> TrialResult:
    """Attack what the threat model leaves of `record` and score it.

    `mean_image` (3, S, S) is the mean public image, `public` what else scores compare several images with. Attack
    failures and what the threat model hides become the result's status; bad input (`InputError`) and programming
    errors are raised. Where memory runs out, the trial runs once more with the next of its `packings`; `attempt` says
    with which of them to begin.
    """
    started, device, tries = datetime.now(UTC), pick_device(spec.device), packings(spec.attack)
    begin, cpu = time.perf_counter(), time.process_time()
    detail = ""
    with _threads(spec.threads):
        for packing in tries[attempt:]:
            reset_peak(device)
            try:
                return _run(spec, packing, record, truth, mean_image, public, device, progress, started)
            except Exception as error:
                if not out_of_memory(error):
                    raise
                # The text alone: the traceback keeps the tensors of the attack alive.
                detail = first_line(error)
            _free(device)
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
    spec: TrialSpec,
    state: ModelState,
    record: RoundRecord,
    truth: Truth,
    mean_image: torch.Tensor,
    public: PublicAnswers | None,
    *,
    attempt: int = 0,
    progress: Progress | None = None,
) -> TrialResult:
    """What a worker does for a trial: put the shared weights back into the record, and run."""
    whole = replace(record, state=state)
    return run_trial(spec, whole, truth, mean_image, public, attempt=attempt, progress=progress)


def packings(attack: AnyAttack) -> tuple[int, ...]:
    """How many restarts run together: as many as the attack says and, should memory not suffice for them, half."""
    together = attack.together
    return (together, together // 2) if together > 1 else (together,)


def out_of_memory(error: BaseException) -> bool:
    """Whether `error` is how Python, CUDA, MPS or the CPU's allocators say that memory has run out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


def ran_out(tries: Sequence[int]) -> str:
    """What an `error` says of memory that did not suffice for these packings, in turn."""
    return f"out of memory with {' and then '.join(map(str, tries))} restarts at a time"


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
        iterations=None,
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
    record: RoundRecord,
    truth: Truth,
    mean_image: torch.Tensor | None,
    public: PublicAnswers | None,
    device: torch.device,
    progress: Progress | None,
    started: datetime,
) -> TrialResult:
    """One try, with `packing` restarts at a time."""
    if packing != spec.attack.together:
        spec = replace(spec, attack=spec.attack.packed(packing))
    begin, cpu = time.perf_counter(), time.process_time()
    error: str | None = None
    status: Status = "ok"
    attacked = None
    try:
        truth = truth_behind(record, spec.threat, truth)
        attacked = _attack(spec, record, truth, mean_image, device, progress)
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
        scores=_score(spec, attacked, truth, mean_image, public) if attacked else (),
        method=attacked.found.method if attacked else None,
        notes=_notes(attacked.found, record, device) if attacked else None,
        label_accuracy=label_accuracy(attacked.found.labels.cpu(), truth.example_labels())
        if attacked
        else None,
        match_loss=attacked.found.loss if attacked else None,
        iterations=attacked.found.iterations if attacked else None,
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
    truth: Truth,
    mean_image: torch.Tensor | None,
    device: torch.device,
    progress: Progress | None,
) -> _Attacked:
    observation = observe(record, spec.threat, labels=truth.example_labels(), public_mean=mean_image).to(
        device
    )
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
    return _Attacked(observation, found, prior, seconds, cpu_seconds)


def _notes(found: Reconstruction, record: RoundRecord, device: torch.device) -> tuple[str, ...]:
    """The attack's own, and what the signal, the device's settings and the images' size add to them."""
    not_finite = sum(update.not_finite for update in record.updates)
    clipped = clipped_to_zeros(not_finite) if not_finite else None
    tarnished = blanket_fallback() if device.type == "mps" else None
    size = found.images.shape[-1]
    small = f"no SSIM: its window of {SSIM_WINDOW} pixels does not fit into images of {size}"
    added = (clipped, tarnished, small if size < SSIM_WINDOW else None)
    return (*found.notes, *(note for note in added if note is not None))


def _score(
    spec: TrialSpec,
    attacked: _Attacked,
    truth: Truth,
    mean_image: torch.Tensor | None,
    public: PublicAnswers | None,
) -> tuple[ImageScore, ...]:
    found, true = attacked.found, truth.images
    chosen = assign(found.images, true)
    oracle = [_assigned_psnr(images, true) for images in found.candidates]
    nothing: list[float | None] = [None] * len(true)
    prior = nothing if attacked.prior is None else _assigned_psnr(attacked.prior.images, true)
    mean = nothing
    if mean_image is not None:
        mean = _assigned_psnr(mean_image.expand(len(found.images), -1, -1, -1), true)
    faces = groups = nothing
    if public is not None and len(true) > 1:
        # As many as there are answers: the assignment has the same choice.
        answered = len(found.images)
        faces, groups = (_assigned_psnr(images[:answered], true) for images in (public.faces, public.groups))
    perceptual = _lpips_once() if spec.lpips else Lpips(None, "not asked for")
    scores = []
    for i, image_id in enumerate(truth.ids):
        j = chosen[i]
        original = _png(true[i]) if spec.images else None
        nothing_found = ImageScore(
            image_id=image_id,
            original=original,
            psnr_prior=prior[i],
            psnr_mean_image=mean[i],
            psnr_public=faces[i],
            psnr_groups=groups[i],
        )
        if j is None:
            scores.append(nothing_found)
            continue
        mine, real = found.images[j : j + 1], true[i : i + 1]
        best = [value for values in oracle if (value := values[i]) is not None]
        scores.append(
            replace(
                nothing_found,
                psnr=float(psnr(mine, real)),
                psnr_oracle=max(best, default=None),
                psnr_range4=float(psnr_range4(mine, real)),
                ssim=None if (similarity := ssim(mine, real)) is None else float(similarity),
                lpips=float(perceptual.distance(mine, real)) if perceptual.distance else None,
                mse=float(mse(mine, real)),
                label_match=bool(found.labels[j] == truth.labels[i]),
                reconstruction=_png(found.images[j]) if spec.images else None,
            )
        )
    return tuple(scores)


def _assigned_psnr(images: torch.Tensor, truth: torch.Tensor) -> list[float | None]:
    return [
        None if j is None else float(psnr(images[j : j + 1], truth[i : i + 1]))
        for i, j in enumerate(assign(images, truth))
    ]


@lru_cache(maxsize=1)
def _lpips_once() -> Lpips:
    return load_lpips()


def _png(image: torch.Tensor) -> bytes:
    pixels = (to_unit(image) * 255.0).round().to(torch.uint8).permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
