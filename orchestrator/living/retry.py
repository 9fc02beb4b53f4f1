"""Running trials again: a sweep goes on with the settings that its folder notes, without the sweep file."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from orchestrator.driver.again import Again, trials_again
from orchestrator.driver.refine import run_refined
from orchestrator.driver.sweep import Outcome, run_sweep
from orchestrator.io.cache import Cache
from orchestrator.results.folder import noted_sweep
from orchestrator.results.there import NoResults
from orchestrator.runtime.progress import Reporter
from orchestrator.runtime.stop import Stop


def retry_trials(
    folder: Path,
    *,
    address: str,
    reporter: Reporter,
    cells: Sequence[str] = ("*",),
    failed: bool = True,
    stop: Stop | None = None,
    patience: int | None = None,
    data_root: str | None = None,
    workers: int | None = None,
    cache: Cache | None = None,
) -> Outcome:
    """Run the failed trials of the `cells` again, or all of theirs, and whatever is left to run there.

    Suggestions stay as they were made; the rows of a trial that runs again are taken out. Pictures and workers may be
    elsewhere now: `data_root`, `workers`. `patience` and `cache` as in `run_sweep`, whose errors this raises.
    """
    config = noted_sweep(folder, data_root)
    if workers is not None:
        execution = dataclasses.replace(config.execution, workers=workers)
        config = dataclasses.replace(config, execution=execution)
    try:
        again = trials_again(folder, config, cells, failed=failed)
    except NoResults:
        again = Again()
    reporter.message(f"{len(again)} trials run again")
    run = partial(
        run_sweep,
        out=folder,
        address=address,
        reporter=reporter,
        cells=cells,
        stop=stop,
        again=again,
        patience=patience,
        cache=cache,
    )
    return run_refined(config, folder, run) if list(cells) == ["*"] else run(config)
