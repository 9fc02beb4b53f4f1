"""A sweep with thresholds: run, look where attacks stop working, run again with strengths in between."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from orchestrator.analysis import summarize
from orchestrator.config import SweepConfig
from orchestrator.strength import next_cells
from orchestrator.sweep import Outcome


def run_refined(config: SweepConfig, folder: Path, run: Callable[[SweepConfig], Outcome]) -> Outcome:
    """`run` the sweep, and again with the cells that its thresholds ask for until none is left.

    What was run is taken from `folder` each time, so the same strengths follow after an interruption.
    """
    outcome = run(config)
    for step in range(max((threshold.refine for threshold in config.thresholds), default=0)):
        new = next_cells(config, folder, summarize(folder), step)
        if not new:
            break
        config = dataclasses.replace(config, cells=(*config.cells, *new))
        later = run(config)
        outcome = dataclasses.replace(later, fresh=outcome.fresh + later.fresh)
    return outcome
