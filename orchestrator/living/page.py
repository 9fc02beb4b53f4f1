"""What is known of one trial, for a terminal: settings, figures, cost, convergence, pictures, how it is repeated."""

from __future__ import annotations

import io
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

from orchestrator.io.files import write_atomically
from orchestrator.report.terminal import number, percent
from orchestrator.results.pictures import decode
from orchestrator.results.store import Row, read_images

Pixels = npt.NDArray[np.uint8]

_FIGURES = {
    "psnr": ("PSNR dB", 1),
    "psnr_oracle": ("best of all dB", 1),
    "psnr_prior": ("on noise dB", 1),
    "psnr_mean_image": ("mean image dB", 1),
    "ssim": ("SSIM", 3),
    "lpips": ("LPIPS", 3),
    "mse": ("MSE", 5),
}
"""Columns of an image that are shown, with their headings and digits."""

_WIDEST = 32
"""Pixels of a picture on a terminal, across."""

_SHOWN = 4
"""Pictures of a trial that are drawn."""

_BARS = "▁▂▃▄▅▆▇█"


def show_trial(folder: Path, rows: Sequence[Row], console: Console) -> None:
    """Print all of it; pictures are drawn on a terminal alone."""
    first = rows[0]
    console.print(Text(f"Trial {first['trial_id']} of {first['sweep']}: {first['status']}"), soft_wrap=True)
    if first["error"]:
        console.print(Text(str(first["error"])), soft_wrap=True)
    console.print(_pairs(_settings(first)))
    if any(row["psnr"] is not None for row in rows):
        console.print("", _figures(rows))
    console.print("", _pairs(_cost(first)))
    for note in json.loads(first["notes"] or "[]"):
        console.print(Text(f"note: {note}"), soft_wrap=True)
    if text := convergence(json.loads(first.get("convergence") or "[]")):
        console.print(Text(text), soft_wrap=True)
    kept = pictures(folder, first["trial_id"])
    if not kept:
        console.print("No pictures of it were kept (execution.images).")
    elif console.is_terminal:
        for name, original, found in kept[:_SHOWN]:
            console.print(
                "", Text(f"{name}: original" + (" and reconstruction" if found is not None else ""))
            )
            console.print(drawn(original, found))
    repeat = f"gradsweep replay {shlex.quote(str(folder))} {first['trial_id']}"
    console.print(Text(f"Run it again: {repeat}"), soft_wrap=True)


def pictures(folder: Path, trial: str) -> list[tuple[str, Pixels | None, Pixels | None]]:
    """Image id, original and reconstruction of each picture of a trial that was kept."""
    table = read_images(folder)
    kept = [row for row in table.to_pylist() if row["trial_id"] == trial]
    return [(str(row["image_id"]), _pixels(row["original"]), _pixels(row["reconstruction"])) for row in kept]


def save_pictures(path: Path, kept: Sequence[tuple[str, Pixels | None, Pixels | None]]) -> None:
    """Write the originals, with the reconstructions below, as one PNG; grey where there is none."""
    shape = next(picture.shape for _, *pair in kept for picture in pair if picture is not None)
    blank = np.full(shape, 128, dtype=np.uint8)
    rows = [
        np.concatenate([blank if pair[i] is None else pair[i] for _, *pair in kept], axis=1) for i in (0, 1)
    ]
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(rows, axis=0)).save(buffer, format="PNG")
    write_atomically(path, buffer.getvalue())


def drawn(*several: Pixels | None) -> Text:
    """Pictures side by side as half blocks, two pixels a character; the ones that are None are left out."""
    there = [picture for picture in several if picture is not None]
    small = [
        np.asarray(
            Image.fromarray(picture).resize(
                (_WIDEST, max(2, _WIDEST * picture.shape[0] // picture.shape[1] // 2 * 2))
            )
        )
        for picture in there
    ]
    text = Text()
    for top in range(0, small[0].shape[0] if small else 0, 2):
        for picture in small:
            for above, below in zip(picture[top], picture[top + 1], strict=True):
                text.append("▀", Style(color=_colour(above), bgcolor=_colour(below)))
            text.append("  ")
        text.append("\n")
    return text


def convergence(points: Sequence[Sequence[float]]) -> str:
    """How the loss fell, as a line of bars on a logarithmic scale; nothing for fewer than two points."""
    if len(points) < 2:
        return ""
    (begin, first), (end, last) = points[0], points[-1]
    heights = [math.log10(max(loss, 1e-30)) for _, loss in points]
    low, high = min(heights), max(heights)
    span = (high - low) or 1.0
    bars = "".join(_BARS[round((height - low) / span * (len(_BARS) - 1))] for height in heights)
    return f"convergence: {bars}  loss {first:.3g} at iteration {begin:.0f}, {last:.3g} at {end:.0f}"


def _pixels(stored: Mapping[str, Any] | None) -> Pixels | None:
    return decode(stored) if stored else None


def _settings(row: Row) -> dict[str, str]:
    searched = {name: value for name, value in row.items() if name.startswith("hp_") and value is not None}
    return {
        "cell": str(row["cell"]),
        "defense": f"{row['defense']} {row['defense_params'] if row['defense'] != 'none' else ''}".strip(),
        **({"differs": row["differs"]} if row["differs"] != "{}" else {}),
        "attacker": str(row["attacker"]),
        "phase": f"{row['phase']}, victim {row['victim']}"
        + (f", suggestion {row['suggestion']}" if row["suggestion"] is not None else ""),
        "searched": ", ".join(f"{name}={_short(value)}" for name, value in searched.items()) or "nothing",
        "attack": str(row["attack_params"]),
        "threat": f"{row['view']}, {row['threat']}",
        "signal": f"{row['signal']} of {row['batch_size']} images at round {row['round']}, {row['model']}",
        "weights": str(row["weights"]),
        "data": str(row["data"]),
        "seeds": f"sweep {row['sweep_seed']}, trial {row['seed']}",
    }


def _figures(rows: Sequence[Row]) -> Table:
    there = [name for name in _FIGURES if any(row[name] is not None for row in rows)]
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False)
    table.add_column(Text("image"), overflow="fold")
    for name in there:
        table.add_column(Text(_FIGURES[name][0]), justify="right")
    for row in rows:
        figures = (number(row[name], _FIGURES[name][1]) for name in there)
        table.add_row(Text(str(row["image_id"])), *map(Text, figures))
    return table


def _cost(row: Row) -> dict[str, str]:
    found = {
        "method": row["method"],
        "labels right": "" if row["label_accuracy"] is None else percent(row["label_accuracy"]),
        "matching loss": _short(row["match_loss"]),
        "iterations": _short(row["iterations"]),
        "work": "" if row.get("work") is None else f"{row['work']:,.0f} images differentiated twice",
        "time": f"{row['seconds']:.2f} s, {row['cpu_seconds']:.2f} CPU-s on {row['device']}",
        "where": f"{row['host']}, started {row['started_at']:%Y-%m-%d %H:%M:%S} UTC",
        "code": _versions(row),
    }
    return {name: value for name, value in found.items() if value}


def _versions(row: Row) -> str:
    versions = json.loads(row["versions"] or "{}")
    shown = ", ".join(f"{name} {versions[name]}" for name in ("gradsweep", "torch") if name in versions)
    commit = f"commit {row['git_commit'][:12]}" if row["git_commit"] else ""
    return ", ".join(part for part in (shown, commit) if part)


def _pairs(content: Mapping[str, str]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False, show_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in content.items():
        table.add_row(Text(name), Text(value))
    return table


def _short(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _colour(pixel: Pixels) -> str:
    return "#{:02x}{:02x}{:02x}".format(*(int(part) for part in pixel))
