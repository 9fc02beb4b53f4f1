"""A suite's runs as tables on the terminal: each run, and the mean over clients."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.table import Table

from orchestrator.analysis.intervals import FEWEST
from orchestrator.report.terminal import NO_FIGURE, epsilon, figure_table, interval, number, percent
from orchestrator.suites.ladder import Rung
from orchestrator.suites.runs import Mean, Run

SCALE = (
    "PSNR in dB on pixels from 0 to 1 (range 1). The original counts with range 4 on pixels from -1 to 1: its figures "
    "are 6.02 dB higher, as in the column `range 4`. Control: what the mean public image or another answer without an "
    "attack reaches. SSIM is windowed; the original's is one window, so its figures are not comparable."
)
"""What to know before figures are compared with the original's."""


def runs_table(runs: Sequence[Run], *, width: int) -> Table:
    """One line for each run; columns without any figure are left out."""
    lines = [run.line for run in runs]
    columns = {
        "images": [str(line.images) for line in lines],
        "PSNR dB": [number(line.psnr.mean, 2) for line in lines],
        "range 4": [number(line.means["psnr_range4"], 2) for line in lines],
        "control": [number(line.psnr_control, 2) for line in lines],
        "SSIM": [number(line.means["ssim"], 3) for line in lines],
        "label\nright": [percent(line.label_match) for line in lines],
    }
    if any(line.drop.measured for line in lines):
        columns["loss"] = [number(line.drop.mean, 2) for line in lines]
    if any(line.privacy for line in lines):
        columns["epsilon"] = [epsilon(line) for line in lines]
    columns |= _lpips([line.means["lpips"] for line in lines])
    columns["CPU-s"] = [number(line.means["cpu_seconds"]) for line in lines]
    if any(line.tests_failed for line in lines):
        columns["failed"] = [str(line.tests_failed) for line in lines]
    return figure_table("Runs", "run", [run.name for run in runs], columns, width=width)


def means_table(found: Sequence[Mean], *, width: int) -> Table:
    """One line for each attacker: the mean over clients, with its 95% interval from five clients on."""
    columns = {
        "clients": [_count(mean) for mean in found],
        "PSNR dB": [interval(mean.psnr) for mean in found],
        "range 4": [number(mean.mean("psnr_range4"), 2) for mean in found],
        "least": [number(mean.least, 2) for mean in found],
        "most": [number(mean.most, 2) for mean in found],
        "control": [number(mean.control, 2) for mean in found],
        "SSIM": [number(mean.mean("ssim"), 3) for mean in found],
        "label\nright": [percent(mean.labels) for mean in found],
        **_lpips([mean.mean("lpips") for mean in found]),
    }
    title = f"Mean over clients (95% interval from {FEWEST} clients on)"
    return figure_table(title, "attacker", [mean.attacker for mean in found], columns, width=width)


def ladder_table(found: Sequence[Rung], *, width: int) -> Table:
    """One line for each rung: what the attacker reaches, and what it lost from the one before."""
    columns = {
        "n": [str(rung.line.n) for rung in found],
        "PSNR dB": [interval(rung.line.psnr_preselected) for rung in found],
        "control": [number(rung.line.psnr_control) for rung in found],
        "lost": [interval(rung.lost) if rung.lost.measured else NO_FIGURE for rung in found],
        "same\nimages": [str(rung.shared) for rung in found],
        "labels\nright": [percent(rung.line.label_accuracy.mean) for rung in found],
    }
    title = "Rung by rung: PSNR of the image chosen before the attack, and dB lost to the line above"
    return figure_table(title, "rung / attacker", [rung.line.name for rung in found], columns, width=width)


def _count(mean: Mean) -> str:
    """How many clients the mean is over, and of how many where some are missing."""
    return f"{mean.measured}{f' of {len(mean.runs)}' if mean.measured < len(mean.runs) else ''}"


def _lpips(values: Sequence[float]) -> dict[str, list[str]]:
    """The column of LPIPS, where any was measured."""
    texts = [number(value, 3) for value in values]
    return {"LPIPS": texts} if not all(map(math.isnan, values)) else {}
