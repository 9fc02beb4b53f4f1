"""Running trials again: a sweep goes on with the settings that its folder notes, without the sweep file."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from fl_core.base.errors import InputError
from orchestrator.config.sweep import SweepConfig
from orchestrator.driver.again import Again, trials_again
from orchestrator.driver.refine import run_refined
from orchestrator.driver.sweep import Outcome, run_sweep
from orchestrator.io.cache import Cache
from orchestrator.io.places import check_folder_there
from orchestrator.results.folder import CLAIM, claimed
from orchestrator.results.store import NoResults
from orchestrator.runtime.progress import Reporter
from orchestrator.runtime.stop import Stop


def noted_sweep(folder: Path, data_root: str | None) -> SweepConfig:
    """The sweep of a results folder, its pictures at `data_root` where that is given.

    Raises `InputError` where there is no folder, or it notes no sweep.
    """
    check_folder_there(folder)
    config = claimed(folder)
    if config is None:
        raise InputError(
            f"{folder} holds no sweep: {folder / CLAIM} is missing; give the results folder of a sweep."
        )
    if data_root is None:
        return config
    return dataclasses.replace(config, data=dataclasses.replace(config.data, root=data_root))


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
