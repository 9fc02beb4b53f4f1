"""The folder of each run: picture, `metrics.txt` and `config.json`, where the original's users look for them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

from attack_core.metrics.metrics import load_lpips
from fl_core.base.errors import InputError
from orchestrator.config.parse import cell_settings
from orchestrator.config.plain import to_plain
from orchestrator.config.sweep import SweepConfig
from orchestrator.io.files import write_atomically
from orchestrator.report.reader import Results
from orchestrator.report.run_outputs import CONFIG, write_files
from orchestrator.results.folder import CLAIM, claimed
from orchestrator.results.store import read_images
from orchestrator.suites.runs import Run


def write_folders(runs: Sequence[Run]) -> None:
    """Write the folders of the runs of one results folder.

    `config.json` is a sweep file of that run alone: `gradsweep sweep` repeats it. Raises `InputError` where the results
    folder does not say which sweep it belongs to.
    """
    folder = runs[0].results
    sweep = claimed(folder)
    if sweep is None:
        raise InputError(f"{folder / CLAIM} is missing, and with it the settings of its runs.")
    results = Results(folder, [run.line for run in runs])
    images = read_images(folder).to_pandas()
    reason = load_lpips().reason if sweep.execution.lpips else "LPIPS was not asked for (execution.lpips)."
    for run in runs:
        run.folder.mkdir(parents=True, exist_ok=True)
        write_files(
            run.folder,
            results.tested(run.line.cell, run.line.attacker),
            images,
            heatmap=True,
            lpips_reason=reason,
        )
        write_atomically(run.folder / CONFIG, _config(sweep, run).encode())


def _config(sweep: SweepConfig, run: Run) -> str:
    """The settings of one run as a sweep file in JSON, which YAML takes too."""
    (cell,) = (cell for cell in sweep.cells if cell.name == run.line.cell)
    attackers = tuple(attacker for attacker in sweep.attackers if attacker.name == run.line.attacker)
    alone = dataclasses.replace(cell_settings(sweep, cell), attackers=attackers)
    return json.dumps(to_plain(alone), indent=2) + "\n"
