"""A sweep with thresholds: run, look where attacks stop working, run again with strengths in between."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from orchestrator.analysis.strength import next_cells
from orchestrator.analysis.summary import summary_lines
from orchestrator.config.sweep import SweepConfig
from orchestrator.driver.sweep import Outcome
from orchestrator.results.folder import claimed


def run_refined(config: SweepConfig, folder: Path, run: Callable[[SweepConfig], Outcome]) -> Outcome:
    """`run` the sweep, and again with the cells that its thresholds ask for until none is left or the budget ends.

    What was run is taken from `folder` each time, so the same strengths follow after an interruption. Strengths that
    the folder has beyond those, of a larger `refine` or another version, are finished in the end: they count too. A run
    that was stopped by failures ends it all.
    """
    outcome = run(config)
    for step in range(max((threshold.refine for threshold in config.thresholds), default=0)):
        if outcome.stopped:
            return outcome
        new = next_cells(config, folder, summary_lines(folder), step)
        if not new:
            break
        config = dataclasses.replace(config, cells=(*config.cells, *new))
        outcome = _joined(outcome, run(config))
    noted = claimed(folder)
    names = {cell.name for cell in config.cells}
    further = [cell for cell in noted.cells if cell.name not in names] if noted else []
    if further and not outcome.stopped:
        outcome = _joined(outcome, run(dataclasses.replace(config, cells=(*config.cells, *further))))
    return outcome


def _joined(before: Outcome, later: Outcome) -> Outcome:
    """Of two runs of one sweep: trials and failures are those of the folder, what was run adds up."""
    return dataclasses.replace(later, fresh=before.fresh + later.fresh)
