"""The page of an audit: the answer in a sentence, images, what was assumed, what would stop it, how to repeat it."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from attack_core.base.certificate import Certificate
from orchestrator.audit.against import GAIN, Critical, Measured
from orchestrator.audit.audit import Answer
from orchestrator.calibration.prediction import EXACT
from orchestrator.io.files import write_atomically
from orchestrator.pages.self_contained import data_uri, environment

PAGE = "audit.html"
FIGURES = "audit.json"

_SHOWN = 64
"""So many images are on the page."""
_RECOGNISED = 20.0
"""In dB; the line that the rest of the project draws too (docs/metrics, docs/statistics)."""


def verdict(answer: Answer) -> str:
    """The answer in a sentence."""
    count, found = len(answer.found.images), answer.found
    many = f"{count} image{'s' if count > 1 else ''}"
    if answer.unlike:
        return f"What {many} behind this signal look like cannot be said: {answer.unlike}."
    if found.outcome == "prior":
        return (
            f"This signal gave nothing away to this attack: its answer for {many} is what was known before."
        )
    expected, each = answer.overall, " on average" if count > 1 else ""
    gain = expected.psnr - answer.calibration.prior
    level = f"{decibels(expected.psnr)} dB expected{each}, {gain:+.1f} dB beside the mean public image"
    if expected.low - answer.calibration.prior > GAIN:
        how = "almost exactly" if expected.psnr >= 2 * _RECOGNISED else "in part"
        return f"The images behind this signal can be reconstructed {how}: {many}, {level}."
    if gain <= GAIN:
        return (
            f"The attack learned little or nothing that a mean public image does not show: {many}, {level}."
        )
    return f"The images may have been reconstructed in part, and the signal does not tell how far: {many}, {level}."


def decibels(value: float) -> str:
    """A number of decibels as it is read; those from `EXACT` on are one."""
    return f"{value:.1f}" if value < EXACT else f">= {EXACT:.0f}"


def rests(answer: Answer) -> str:
    """What the prediction comes from."""
    if not answer.expected:
        return ""
    clients, alike = answer.calibration.clients, answer.overall.alike
    if alike is None:
        return (
            f"Too few of {clients} simulated clients' attacks ended as this one did ({answer.found.outcome}): the "
            "interval is the range of all that they and the mean public image reached."
        )
    if alike < clients:
        return f"The prediction comes from {alike} of {clients} simulated clients, whose attacks ended as this one did."
    return f"The prediction comes from the same attack on {clients} simulated clients."


def write_page(folder: Path, answer: Answer, *, title: str, command: str) -> Path:
    """Write `audit.html` and `audit.json` into `folder`, the images beside them; returns the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = [_png(picture) for picture in answer.found.images]
    for i, picture in enumerate(pictures):
        write_atomically(folder / f"image-{i:03d}.png", picture)
    write_atomically(folder / FIGURES, json.dumps(figures(answer), indent=2).encode())
    page = (
        environment("orchestrator.audit")
        .get_template("audit.html")
        .render(
            scripted=False,
            title=title,
            verdict=verdict(answer),
            images=[data_uri(each) for each in pictures[:_SHOWN]],
            left_out=max(0, len(pictures) - _SHOWN),
            labels=answer.found.labels.tolist(),
            psnr=answer.psnr,
            answer=answer,
            level=f"{answer.overall.level:.0%}" if answer.expected else "",
            rests=rests(answer),
            certified=certified(answer),
            decibels=decibels,
            gain=GAIN,
            strengths=[_rows(critical) for critical in answer.strengths],
            command=command,
        )
    )
    write_atomically(folder / PAGE, page.encode())
    return folder / PAGE


def figures(answer: Answer) -> dict[str, Any]:
    """The figures of an audit as plain data."""
    return {
        "verdict": verdict(answer),
        "outcome": answer.found.outcome,
        "method": answer.found.method,
        "notes": list(answer.found.notes),
        "loss": answer.found.loss if math.isfinite(answer.found.loss) else None,
        "labels": answer.found.labels.tolist(),
        "expected_psnr": [
            {"psnr": each.psnr, "low": each.low, "high": each.high} for each in answer.expected
        ],
        "certificates": [_certificate(each) for each in answer.found.certificates],
        "interval": answer.overall.level if answer.expected else None,
        "alike": answer.overall.alike if answer.expected else None,
        "unlike": answer.unlike,
        "effort": answer.effort,
        "simulated_clients": answer.calibration.clients,
        "mean_image_psnr": answer.calibration.prior,
        "psnr": None if answer.psnr is None else list(answer.psnr),
        "facts": [
            {
                "name": f.name,
                "value": f.value,
                "source": f.source,
                "why": f.why,
                "contradiction": f.contradiction,
            }
            for f in answer.premises
        ],
        "against": [
            {
                "defense": critical.name,
                "setting": critical.setting,
                "holds_from": None if critical.strength is None else critical.strength.strength,
                "measured": [_plain(each) for each in critical.measured],
            }
            for critical in answer.strengths
        ],
    }


def _certificate(each: Certificate | None) -> dict[str, Any] | None:
    if each is None:
        return None
    # JSON knows no infinity.
    finite = {
        name: value if not isinstance(value, float) or math.isfinite(value) else None
        for name, value in vars(each).items()
    }
    return {"verdict": each.verdict, **finite}


def certified(answer: Answer) -> str:
    """How many images the attack's own equations certify, in a sentence; empty where there are no equations."""
    there = [each for each in answer.found.certificates if each is not None]
    if not there:
        return ""
    sure = [each for each in there if each.verdict == "exact"]
    count = len(answer.found.images)
    which = "the image" if count == 1 else f"{len(sure)} of {count} images"
    if sure:
        least = min(each.psnr for each in sure)
        return (
            f"Certified exact: {which}. The attack's equations determine every direction of what the client trained "
            f"on, and leave room for no other answer: at least {least:.0f} dB."
        )
    worst = min(there, key=lambda each: each.rank / each.unknowns)
    return f"No certificate: {worst.words}."


def _plain(each: Measured) -> dict[str, Any]:
    return {
        "strength": each.strength,
        "expected_psnr": each.expected.psnr,
        "low": each.expected.low,
        "high": each.expected.high,
        "mean_psnr": each.mean,
        "gain": each.gain,
        "bytes_up": each.bytes_up,
        "accuracy": each.accuracy,
    }


def _rows(critical: Critical) -> dict[str, Any]:
    held = critical.strength
    holds = f"holds from {critical.setting} {held.strength:.3g}" if held else "none of these holds"
    return {"name": critical.name, "setting": critical.setting, "holds": holds, "measured": critical.measured}


def _png(picture: Tensor) -> bytes:
    pixels = (picture.permute(1, 2, 0) * 255).round().byte().numpy()
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    target = io.BytesIO()
    image.save(target, "PNG")
    return target.getvalue()


def lines(answer: Answer) -> Sequence[str]:
    """What the terminal says."""
    found = [verdict(answer)]
    for i, e in enumerate(answer.expected[:_SHOWN], start=1):
        image = f"image {i}: " if len(answer.expected) > 1 else ""
        found.append(
            f"{image}expected PSNR {decibels(e.psnr)} dB, {e.level:.0%} interval "
            f"[{decibels(e.low)}, {decibels(e.high)}]"
        )
    if answer.expected:
        found.append(f"{rests(answer)} The mean public image reaches {answer.calibration.prior:.1f} dB.")
    if sentence := certified(answer):
        found.append(sentence)
    if answer.psnr is not None:
        found.append(f"PSNR with the truth: {', '.join(f'{value:.1f}' for value in answer.psnr)} dB")
    found += [f"contradiction: {text}" for text in answer.contradictions]
    for critical in answer.strengths:
        row = _rows(critical)
        found.append(f"{row['name']}: {row['holds']} (gain at most {GAIN:g} dB)")
    return found
