"""Scores: each true image beside what was reconstructed for it, and beside what needs no signal."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from PIL import Image

from attack_core.base.types import Reconstruction
from attack_core.metrics.metrics import Lpips, assign, load_lpips, mse, psnr, psnr_range4, ssim, to_unit
from fl_core.base.device import precision_of
from orchestrator.trial.spec import TrialInput, TrialSpec


@dataclass(frozen=True, kw_only=True)
class ImageScore:
    """One true image's figures; null where nothing was reconstructed for it, `image_id` too where a trial failed.

    `psnr*` in dB with range 1 (`psnr_range4`: range 4); `psnr_oracle` is the best over all candidates,
    `psnr_prior` the same attack's on norm-matched noise, `psnr_mean_image` the mean public image's,
    `psnr_public` and `psnr_groups` those of `PublicAnswers` in the place of several images. `certificate*` are what
    the attack's equations say of the answer, without the truth; `certified` is 1 where they call it exact, else 0.
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
    certificate: str | None = None
    certified: float | None = None
    certified_psnr: float | None = None
    certificate_rank: int | None = None
    certificate_condition: float | None = None
    certificate_residual: float | None = None
    original: bytes | None = None
    reconstruction: bytes | None = None


@precision_of("float32")
def scores_of(
    spec: TrialSpec, data: TrialInput, found: Reconstruction, prior: Reconstruction | None
) -> tuple[ImageScore, ...]:
    """One score for each image of `data.truth`; `prior` is what the same attack found in norm-matched noise.

    Measured in float32 whatever the attack's precision: SSIM subtracts squares of means from means of squares.
    """
    truth, mean_image, public = data.truth, data.mean_image, data.public
    true = truth.images
    chosen = assign(found.images, true)
    oracle = [_assigned_psnr(images, true) for images in found.candidates]
    nothing: list[float | None] = [None] * len(true)
    of_noise = nothing if prior is None else _assigned_psnr(prior.images, true)
    mean = nothing
    if mean_image is not None:
        mean = _assigned_psnr(mean_image.expand(len(found.images), -1, -1, -1), true)
    singles = groups = nothing
    if public is not None and len(true) > 1:
        # As many as there are answers: the assignment has the same choice.
        answered = len(found.images)
        singles, groups = (
            _assigned_psnr(images[:answered], true) for images in (public.images, public.groups)
        )
    perceptual = _lpips_once() if spec.lpips else Lpips(None, "not asked for")
    scores = []
    for i, image_id in enumerate(truth.ids):
        j = chosen[i]
        original = _png(true[i]) if spec.images else None
        nothing_found = ImageScore(
            image_id=image_id,
            original=original,
            psnr_prior=of_noise[i],
            psnr_mean_image=mean[i],
            psnr_public=singles[i],
            psnr_groups=groups[i],
            certified=0.0,
        )
        if j is None:
            scores.append(nothing_found)
            continue
        mine, real = found.images[j : j + 1], true[i : i + 1]
        best = [value for values in oracle if (value := values[i]) is not None]
        scores.append(
            replace(
                nothing_found,
                **_certified(found, j),
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


def _certified(found: Reconstruction, image: int) -> dict[str, Any]:
    """What the certificate of one answer says, by field; nothing where it has none."""
    certificate = found.certificates[image] if found.certificates else None
    if certificate is None:
        return {}
    return {
        "certificate": certificate.verdict,
        "certified": float(certificate.verdict == "exact"),
        "certified_psnr": certificate.psnr if math.isfinite(certificate.psnr) else None,
        "certificate_rank": certificate.rank,
        "certificate_condition": certificate.condition,
        "certificate_residual": certificate.residual,
    }


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
    if pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()
