"""Trials that are to run again: which ones, and when their rows are taken out of a folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from orchestrator.config.sweep import SweepConfig
from orchestrator.results.store import ResultStore, read_rows


class Again:
    """Finished trials whose rows are taken out once, when everything is prepared and a sweep begins to run."""

    def __init__(self, trials: Iterable[str] = ()) -> None:
        self._left = frozenset(trials)

    def __len__(self) -> int:
        return len(self._left)

    def forget(self, store: ResultStore) -> None:
        """Take their rows out; nothing the second time, as after a Ray that was lost."""
        if self._left:
            store.forget(self._left)
        self._left = frozenset()


def trials_again(folder: Path, config: SweepConfig, cells: Iterable[str], *, failed: bool) -> Again:
    """The trials of the cells that match the patterns: those that failed, or all.

    Raises `InputError` where no cell matches, or the folder holds no trial.
    """
    names = {cell.name for cell in config.matching_cells(list(cells))}
    rows = read_rows(folder).select(["trial_id", "cell", "status"]).to_pylist()
    return Again(
        row["trial_id"] for row in rows if row["cell"] in names and (row["status"] == "failed" or not failed)
    )
