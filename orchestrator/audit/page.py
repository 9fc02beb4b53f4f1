"""The page of an audit: the answer in a sentence, images, what was assumed, what would stop it, how to repeat it."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image
from torch import Tensor

from orchestrator.audit.against import GAIN, Critical, Measured
from orchestrator.audit.audit import Answer
from orchestrator.io.files import write_atomically

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
    if answer.expected is None:
        return f"What {many} behind this signal look like cannot be said: {answer.unlike}."
    if found.outcome == "prior":
        return (
            f"This signal gave nothing away to this attack: its answer for {many} is what was known before."
        )
    gain = answer.expected.psnr - answer.calibration.prior
    level = f"{answer.expected.psnr:.1f} dB expected, {gain:+.1f} dB beside the mean public image"
    if answer.expected.low - answer.calibration.prior > GAIN:
        how = "almost exactly" if answer.expected.psnr >= 2 * _RECOGNISED else "in part"
        return f"The images behind this signal can be reconstructed {how}: {many}, {level}."
    if gain <= GAIN:
        return (
            f"The attack learned little or nothing that a mean public image does not show: {many}, {level}."
        )
    return f"The images may have been reconstructed in part, and the signal does not tell how far: {many}, {level}."


def write_page(folder: Path, answer: Answer, *, title: str, command: str) -> Path:
    """Write `audit.html` and `audit.json` into `folder`, the images beside them; returns the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = [_png(picture) for picture in answer.found.images]
    for i, picture in enumerate(pictures):
        write_atomically(folder / f"image-{i:03d}.png", picture)
    write_atomically(folder / FIGURES, json.dumps(figures(answer), indent=2).encode())
    page = (
        _environment()
        .get_template("audit.html")
        .render(
            title=title,
            verdict=verdict(answer),
            images=[f"data:image/png;base64,{base64.b64encode(each).decode()}" for each in pictures[:_SHOWN]],
            left_out=max(0, len(pictures) - _SHOWN),
            labels=answer.found.labels.tolist(),
            psnr=answer.psnr,
            answer=answer,
            level=f"{answer.expected.level:.0%}" if answer.expected else "",
            gain=GAIN,
            strengths=[_rows(critical) for critical in answer.strengths],
            command=command,
        )
    )
    write_atomically(folder / PAGE, page.encode())
    return folder / PAGE


def figures(answer: Answer) -> dict[str, Any]:
    """The figures of an audit as plain data."""
    expected = answer.expected
    return {
        "verdict": verdict(answer),
        "outcome": answer.found.outcome,
        "method": answer.found.method,
        "notes": list(answer.found.notes),
        "loss": answer.found.loss if math.isfinite(answer.found.loss) else None,
        "labels": answer.found.labels.tolist(),
        "expected_psnr": None
        if expected is None
        else {"psnr": expected.psnr, "low": expected.low, "high": expected.high},
        "interval": None if expected is None else expected.level,
        "unlike": answer.unlike,
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
            for f in answer.facts
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


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("orchestrator.audit"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )


def lines(answer: Answer) -> Sequence[str]:
    """What the terminal says."""
    e, found = answer.expected, [verdict(answer)]
    if e is not None:
        found.append(
            f"expected PSNR {e.psnr:.1f} dB, {e.level:.0%} interval [{e.low:.1f}, {e.high:.1f}], from "
            f"{answer.calibration.clients} simulated clients; mean public image {answer.calibration.prior:.1f} dB"
        )
    if answer.psnr is not None:
        found.append(f"PSNR with the truth: {', '.join(f'{value:.1f}' for value in answer.psnr)} dB")
    found += [f"contradiction: {text}" for text in answer.contradictions]
    for critical in answer.strengths:
        row = _rows(critical)
        found.append(f"{row['name']}: {row['holds']} (gain at most {GAIN:g} dB)")
    return found
