"""The files of a single experiment: the picture and the metrics."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from attack_core.metrics.metrics import SSIM_WINDOW, load_lpips
from orchestrator.analysis.intervals import FEWEST
from orchestrator.analysis.lines import Line
from orchestrator.io.files import write_atomically
from orchestrator.report.conclusions import verdict
from orchestrator.report.terminal import interval, labels, number, percent, preselected
from orchestrator.results.pictures import decode
from orchestrator.results.store import read_images, read_rows

PICTURE, METRICS, CONFIG = "baseline_attack_result.png", "metrics.txt", "config.json"

_SHOWN = 8
"""At most so many images side by side in the picture."""

_LISTED = 40
"""At most so many images on the terminal."""


def write_outputs(folder: Path, line: Line, *, heatmap: bool, lpips: bool, console: Console) -> None:
    """Write the picture and `metrics.txt`; print one line for each image, the mean, what ran and what it shows.

    `line` is the folder's summary, of one cell and one attacker.
    """
    rows = read_rows(folder).to_pandas().sort_values("victim", kind="stable")
    reason = load_lpips().reason if lpips else "LPIPS was not asked for (--compute-lpips)."
    write_files(folder, rows, read_images(folder).to_pandas(), heatmap=heatmap, lpips_reason=reason)
    # A signal of many images holds all of them; the attack may have made some or one of them.
    shown = rows[rows["psnr"].notna() | (rows["status"] != "ok")]
    if len(shown):
        console.print(_table(shown.head(_LISTED)))
    for text in [*_findings(rows, shown, line), *([reason] if lpips and reason else [])]:
        console.print(text, soft_wrap=True)
    for name in (PICTURE, METRICS, CONFIG, "trials", "summary.parquet"):
        if (folder / name).exists():
            console.print(f"{folder / name}", soft_wrap=True)


def write_files(
    folder: Path, rows: pd.DataFrame, images: pd.DataFrame, *, heatmap: bool, lpips_reason: str
) -> None:
    """Write `metrics.txt` of these rows and, where `images` has any of theirs, the picture."""
    write_atomically(folder / METRICS, _metrics_text(rows, lpips_reason).encode())
    pairs = _pairs(rows, images)
    if pairs:
        write_atomically(folder / PICTURE, _picture(pairs, heatmap=heatmap))


def _metrics_text(rows: pd.DataFrame, lpips_reason: str) -> str:
    """`Name: value` lines: means over victims, and what they rest on."""
    ok = rows[(rows["status"] == "ok") & rows["psnr"].notna()]
    if ok.empty:
        return f"Status: {rows['status'].iloc[0]}\nError: {rows['error'].iloc[0]}\n"
    lpips, ssim = ok["lpips"].mean(), ok["ssim"].mean()
    lines = {
        "MSE": f"{ok['mse'].mean():.6f}",
        "PSNR": f"{ok['psnr'].mean():.4f}",
        "SSIM": f"{ssim:.4f}"
        if pd.notna(ssim)
        else f"n/a (images smaller than its window of {SSIM_WINDOW} pixels)",
        "LPIPS": f"{lpips:.4f}" if pd.notna(lpips) else f"n/a ({lpips_reason})",
        "LabelMatch": f"{ok['label_match'].astype(float).mean():.4f}",
        "PSNR_MeanImage": f"{ok['psnr_mean_image'].mean():.4f}",
        "PSNR_Range4": f"{ok['psnr_range4'].mean():.4f}",
        "Images": f"{len(ok)} of {len(rows)}",
    }
    return "".join(f"{name}: {value}\n" for name, value in lines.items())


def _table(rows: pd.DataFrame) -> Table:
    """One line for each image, within 80 columns."""
    shown = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("victim", "image", "PSNR dB", "mean\nimage", "SSIM", "LPIPS", "label", "CPU-s", "status"):
        shown.add_column(name, justify="right" if name != "status" else "left", no_wrap=name != "status")
    for row in rows.to_dict("records"):
        shown.add_row(
            str(row["victim"]),
            Text(str(row["image_id"])) if pd.notna(row["image_id"]) else "-",
            number(row["psnr"], 2),
            number(row["psnr_mean_image"], 2),
            number(row["ssim"], 3),
            number(row["lpips"], 3),
            {True: "right", False: "wrong"}.get(row["label_match"], "-"),
            number(row["cpu_seconds"]),
            str(row["status"]),
        )
    return shown


def _findings(rows: pd.DataFrame, shown: pd.DataFrame, line: Line) -> list[str]:
    """Mean, interval, worst and cost over victims; what ran and why; what that allows to say."""
    found = [f"... {len(shown) - _LISTED} more images in trials/"] if len(shown) > _LISTED else []
    made = int(rows["psnr"].notna().sum())
    if made < len(rows) and (rows["status"] == "ok").any():
        found.append(f"{made} of {len(rows)} images reconstructed; the others have no figures.")
    if line.n:
        victims = f"{line.n} victim{'s' if line.n > 1 else ''}"
        bound = " (95% interval)" if line.n >= FEWEST else f" (no interval below {FEWEST} victims)"
        found += [
            f"{victims}: PSNR {interval(line.psnr)} dB{bound}, "
            f"worst {number(line.psnr_worst)}, {line.control.name} {number(line.psnr_control)}, "
            f"SSIM {number(line.means['ssim'], 2)}, {number(line.means['cpu_seconds'])} CPU-s a victim",
            f"Weights of round {line.round}, accuracy {percent(line.weights_accuracy)}; "
            f"labels right: {labels(line)}",
            *([preselected(line)] if line.batches else []),
            f"What ran: {line.method}",
            *(f"Why: {note}" for note in line.notes),
        ]
    ended = rows[rows["error"].notna()]
    errors = Counter(ended["status"] + ": " + ended["error"])
    found += [f"{error} ({count} of {line.tests} trials)" for error, count in errors.items()]
    return [*found, verdict(line).text]


def _pairs(rows: pd.DataFrame, images: pd.DataFrame) -> list[tuple[float, Any, Any]]:
    """PSNR, original and reconstruction (H, W, 3) in [0, 1] of the first images that have both."""
    merged = rows.merge(images, on=["trial_id", "image_id"], how="inner")
    found = [
        (
            row["psnr"],
            *(decode(row[name]).astype(np.float32) / 255.0 for name in ("original", "reconstruction")),
        )
        for row in merged.to_dict("records")
        if row["original"] is not None and row["reconstruction"] is not None
    ]
    return found[:_SHOWN]


def _picture(pairs: list[tuple[float, Any, Any]], *, heatmap: bool) -> bytes:
    """Original above reconstruction above error map, one column for each image, as PNG bytes."""
    names = ["original", "reconstruction", "mean |error|"][: 3 if heatmap else 2]
    figure = Figure(figsize=(2.0 * len(pairs) + 1.0, 2.1 * len(names)), layout="constrained")
    axes = figure.subplots(len(names), len(pairs), squeeze=False)
    for column, (psnr, original, reconstruction) in enumerate(pairs):
        error = np.abs(original - reconstruction).mean(axis=2)
        axes[0, column].imshow(original)
        axes[1, column].imshow(reconstruction)
        axes[1, column].set_title(f"{psnr:.1f} dB", fontsize=9)
        if heatmap:
            drawn = axes[2, column].imshow(error, cmap="inferno", vmin=0.0, vmax=0.25)
            if column == len(pairs) - 1:
                figure.colorbar(drawn, ax=axes[2, column], fraction=0.05)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    for name, axis in zip(names, axes[:, 0], strict=True):
        axis.set_ylabel(name, fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()
