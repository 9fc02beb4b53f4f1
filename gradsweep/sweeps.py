"""Sweeps from Python: run a sweep file, read a results folder. Needs the extra `sweep`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from fl_core.base.errors import InputError
from orchestrator.config.parse import load_sweep
from orchestrator.config.sweep import SweepConfig
from orchestrator.driver.refine import run_refined
from orchestrator.driver.sweep import Outcome
from orchestrator.driver.sweep import run_sweep as _run
from orchestrator.results.store import read_rows
from orchestrator.runtime.progress import ConsoleReporter
from orchestrator.runtime.terminal import console


def run_sweep(
    file: str | Path, out: str | Path, *, overrides: Sequence[str] = (), address: str = "local"
) -> Outcome:
    """Run or resume the sweep in a YAML file in the results folder `out`; progress goes to standard error.

    `overrides` are `key=value` as `--set` takes them. `address` is `local`, `serial`, `auto`, or a Ray cluster's
    `HOST:PORT`. Returns how many trials there are, were run now, and failed. Raises `InputError` for bad input.
    """
    config = load_sweep(Path(file), list(overrides))

    def run(sweep: SweepConfig) -> Outcome:
        return _run(sweep, Path(out), address=address, reporter=ConsoleReporter(console()))

    return run_refined(config, Path(out), run)


def read_results(folder: str | Path) -> pd.DataFrame:
    """The trials of a results folder, a row for each image; `docs/results.md` says what the columns mean.

    Raises `InputError` for a folder without results.
    """
    if not Path(folder).is_dir():
        raise InputError(f"{folder} is no folder; name a results folder.")
    rows: pd.DataFrame = read_rows(Path(folder)).to_pandas()
    return rows
