"""Whether a folder holds results at all, which its file names tell: nothing is read."""

from __future__ import annotations

from pathlib import Path

from fl_core.base.errors import InputError
from orchestrator.io.places import check_folder_there

CLAIM = "sweep.json"
"""The file that notes which sweep a folder is of."""

TRIALS, LOG = "trials", "pending.jsonl"
"""Where finished trials lie: a folder of Parquet files, and the log of those that are not in it yet."""

OWNERS = ".owner-*.json"
"""What the files are called that name the driver of a folder."""


class NoResults(InputError):
    """A results folder in which no trial is finished."""


def no_results(folder: Path) -> NoResults:
    """What to raise where nothing is there that could hold a trial."""
    return NoResults(
        f"{folder} holds no results: {folder / TRIALS} has no Parquet file; run its sweep again."
    )


def no_sweep(folder: Path) -> InputError:
    """What to raise where a folder neither notes a sweep nor has trials."""
    return InputError(
        f"{folder} holds no sweep: {folder / CLAIM} is missing, and there are no trials; give the results folder of a "
        "sweep."
    )


def check_results(folder: Path) -> None:
    """Raise `InputError` where the folder is missing, `NoResults` where no file in it could hold a trial."""
    check_folder_there(folder)
    if not _may_hold_trials(folder):
        raise no_results(folder)


def check_begun(folder: Path) -> None:
    """Raise `InputError` where the folder is missing, and where no driver, sweep or trial has left anything in it."""
    check_folder_there(folder)
    if not (_may_hold_trials(folder) or (folder / CLAIM).exists() or any(folder.glob(OWNERS))):
        raise no_sweep(folder)


def _may_hold_trials(folder: Path) -> bool:
    return (folder / LOG).exists() or any((folder / TRIALS).glob("*.parquet"))
