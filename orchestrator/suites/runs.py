"""The runs of a suite: each attack on each cell, with its figures, its name and its folder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from orchestrator.analysis.intervals import Interval, mean_interval
from orchestrator.analysis.lines import Line
from orchestrator.analysis.summary import summary_lines
from orchestrator.io.files import write_atomically
from orchestrator.suites.catalog import Suite

ORIGINAL = "original"
"""The name of an attacker that is the original project's own: its runs have the name of their cell alone."""

TABLE = "runs.csv"
"""The table of all runs, in the suite's folder."""


@dataclass(frozen=True)
class Run:
    """One attack on one cell: the results folder with its rows, its own folder, its name in the suite, its figures."""

    results: Path
    folder: Path
    name: str
    line: Line


def runs_of(results: Path, out: Path) -> tuple[Run, ...]:
    """The runs in a results folder of a suite whose folder is `out`, in the order of the sweep file.

    A run's folder in the results folder has the name of its cell and attacker; what all runs share is left out, and so
    is the original's attacker. A single run's folder is the results folder. Raises `InputError` where the folder holds
    no results.
    """
    lines = summary_lines(results)
    cells = {line.cell for line in lines}
    attackers = {line.attacker for line in lines}
    found = []
    for line in lines:
        parts = [line.cell] if len(cells) > 1 else []
        parts += [line.attacker] if len(attackers) > 1 and line.attacker != ORIGINAL else []
        folder = results / "_".join(parts)
        name = folder.relative_to(out).as_posix() if folder != out else out.name
        found.append(Run(results, folder, name, line))
    return tuple(found)


def runs_of_suite(suite: Suite, out: Path) -> tuple[Run, ...]:
    """The runs of every part of a suite that has been run; raises `InputError` where none has."""
    return tuple(run for folder in suite.begun(out) for run in runs_of(folder, out))


@dataclass(frozen=True)
class Mean:
    """The mean of one attacker over several clients: PSNR in dB with its interval, the least and the most of it."""

    attacker: str
    runs: tuple[Run, ...]
    psnr: Interval
    least: float
    most: float

    @property
    def measured(self) -> int:
        """How many of the runs have a figure."""
        return sum(run.line.psnr.measured for run in self.runs)

    def mean(self, name: str) -> float:
        """The mean over clients of a figure of the summary."""
        return _mean([run.line.means[name] for run in self.runs])

    @property
    def labels(self) -> float:
        """The share of labels that are right."""
        return _mean([run.line.label_match for run in self.runs])

    @property
    def control(self) -> float:
        """The PSNR in dB that needs no attack, the mean over clients."""
        return _mean([run.line.psnr_control for run in self.runs])


def means(runs: Iterable[Run]) -> tuple[Mean, ...]:
    """For each attacker the mean over its runs, in their order; runs without a figure are left out of it."""
    grouped: dict[str, list[Run]] = {}
    for run in runs:
        grouped.setdefault(run.line.attacker, []).append(run)
    found = []
    for attacker, several in grouped.items():
        values = np.array([run.line.psnr.mean for run in several], dtype=np.float64)
        there = values[np.isfinite(values)]
        control = _mean([run.line.psnr_control for run in several])
        found.append(
            Mean(
                attacker,
                tuple(several),
                mean_interval(values, failed=control),
                float(there.min()) if len(there) else np.nan,
                float(there.max()) if len(there) else np.nan,
            )
        )
    return tuple(found)


def write_table(out: Path, runs: Sequence[Run]) -> Path:
    """Write one line for each run to `runs.csv`: PSNR in dB with range 1 and, as the original counts, with range 4."""
    frame = pd.DataFrame(
        [
            {
                "run": run.name,
                "cell": run.line.cell,
                "attacker": run.line.attacker,
                "defense": run.line.defense,
                "epsilon": run.line.privacy.epsilon if run.line.privacy else np.nan,
                "images": run.line.images,
                "psnr": run.line.psnr.mean,
                "psnr_range4": run.line.means["psnr_range4"],
                "psnr_mean_image": run.line.means["psnr_mean_image"],
                "ssim": run.line.means["ssim"],
                "lpips": run.line.means["lpips"],
                "label_match": run.line.label_match,
                "failed": run.line.tests_failed,
            }
            for run in runs
        ]
    )
    path = out / TABLE
    write_atomically(path, frame.to_csv(index=False).encode())
    return path


def _mean(values: Sequence[float]) -> float:
    """The mean of those that are there; NaN where none is."""
    there = [value for value in values if np.isfinite(value)]
    return float(np.mean(there)) if there else np.nan
