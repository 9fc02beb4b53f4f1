"""Unites results folders of one sweep, such as those of a job array's cells, into one folder."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from fl_core.base.errors import InputError
from orchestrator.capture.used_data import united
from orchestrator.config.plain import to_plain
from orchestrator.io.files import write_atomically
from orchestrator.io.parquet import parquet_bytes
from orchestrator.io.whole import appearing
from orchestrator.results import schema
from orchestrator.results.folder import claim_folder, mergeable
from orchestrator.results.schema import trials_schema, trials_table
from orchestrator.results.store import ResultStore, Row, data_by_cell, read_images, read_rows, read_studies
from orchestrator.results.utility_files import (
    UTILITY,
    UtilityFile,
    read_utility,
    utility_paths,
    write_utility,
)

_TIMES = ("seconds", "cpu_seconds", "gpu_seconds", "peak_memory_mb")
OF_THE_RUN = (*_TIMES, "host", "git_commit", "versions", "started_at", "cached")
"""Columns in which two runs of one trial may differ."""


@dataclass(frozen=True)
class Merged:
    """What a merge found: trials in the new folder, and how many of them failed."""

    trials: int
    failed: int


def merge_folders(folders: Sequence[Path], out: Path) -> Merged:
    """Write the rows, studies, pictures and accuracies of all `folders` into the new folder `out`.

    The folders must be of one sweep: equal settings, workers and kept captures aside, and the same pictures. A trial
    that two of them hold must have the same result in both and is taken once. Captures are left behind; a sweep that
    goes on in `out` computes them again. `out` appears whole or not at all. Raises `InputError` where a folder does
    not fit, is being written to, or `out` holds something.
    """
    config = mergeable(folders, out)
    columns = trials_schema(attacker.space.every() for attacker in config.attackers)
    with ExitStack() as held:
        for folder in folders:
            # Keeps a running sweep out, takes over what a killed one left in its log, and checks the columns.
            held.enter_context(ResultStore(folder, columns))
        data = united({folder: _data(folder) for folder in folders})
        with appearing(out) as scratch:
            for name in ("trials", "studies", "images", UTILITY):
                (scratch / name).mkdir()
            rows, pictured_in = _united_trials(folders, columns)
            _write(scratch / "trials" / "part-000001.parquet", rows)
            _write(scratch / "studies" / "studies.parquet", _united_studies(folders))
            _copy_images(pictured_in, scratch / "images")
            _unite_utility(folders, scratch / UTILITY, [cell.name for cell in config.cells])
            claim_folder(scratch, config, data)
    failed = pc.sum(pc.equal(rows.column("status"), "failed")).as_py() or 0
    return Merged(trials=len(pc.unique(rows.column("trial_id"))), failed=failed)


def _data(folder: Path) -> dict[str, set[str]]:
    """Which data sets a folder's rows name, by cell."""
    return data_by_cell(read_rows(folder).select(["cell", "data"]).to_pylist())


def _united_trials(folders: Sequence[Path], columns: pa.Schema) -> tuple[pa.Table, dict[Path, set[str]]]:
    """All rows, each trial's once, and which trials were taken from which folder."""
    owner: dict[str, tuple[Path, list[Row]]] = {}
    kept: list[Row] = []
    for folder in folders:
        mine: dict[str, list[Row]] = {}
        for row in read_rows(folder).to_pylist():
            mine.setdefault(row["trial_id"], []).append(row)
        for trial, rows in mine.items():
            if trial in owner:
                _check_same(trial, owner[trial], (folder, rows))
            else:
                owner[trial] = (folder, rows)
                kept += rows
    taken: dict[Path, set[str]] = {folder: set() for folder in folders}
    for trial, (folder, _) in owner.items():
        taken[folder].add(trial)
    return trials_table(kept, columns), taken


def _check_same(trial: str, one: tuple[Path, list[Row]], other: tuple[Path, list[Row]]) -> None:
    """Raise `InputError` where two results of one trial differ in more than when and where they were made."""

    def content(rows: list[Row]) -> list[dict[str, str]]:
        plain = [{k: repr(v) for k, v in row.items() if k not in OF_THE_RUN} for row in rows]
        return sorted(plain, key=lambda row: row["image_id"])

    for left, right in zip(content(one[1]), content(other[1]), strict=False):
        for column, value in left.items():
            if right[column] != value:
                raise InputError(
                    f"Trial {trial} has another result in {other[0]} than in {one[0]}: "
                    f"{column} is {right[column]} there and {value} here; leave one of the folders out."
                )
    if len(one[1]) != len(other[1]):
        raise InputError(
            f"Trial {trial} has {len(other[1])} rows in {other[0]} and {len(one[1])} in {one[0]}; "
            "leave one of the folders out."
        )


def _united_studies(folders: Sequence[Path]) -> pa.Table:
    """All suggestions, ordered as a sweep orders them; of a suggestion that is still asked somewhere, the result."""
    found: dict[tuple[str, int], tuple[Path, Row]] = {}
    for folder in folders:
        for row in read_studies(folder).to_pylist():
            key = (row["study"], row["suggestion"])
            there, old = found.setdefault(key, (folder, row))
            if old["state"] == "asked":
                found[key] = (folder, row)
            elif row["state"] != "asked" and row != old:
                raise InputError(
                    f"Suggestion {key[1]} of study {key[0]} ended otherwise in {folder} than in {there}; "
                    "leave one of the folders out."
                )
    return pa.Table.from_pylist([row for _, (_, row) in sorted(found.items())], schema=schema.STUDIES)


def _copy_images(taken: dict[Path, set[str]], out: Path) -> None:
    """The pictures of the trials that were taken from each folder; one folder's at a time is in memory."""
    for number, (folder, trials) in enumerate(taken.items(), start=1):
        images = read_images(folder)
        chosen = pc.is_in(images.column("trial_id"), value_set=pa.array(sorted(trials), pa.string()))
        _write(out / f"part-{number:06d}.parquet", images.filter(chosen))


def _unite_utility(folders: Sequence[Path], out: Path, order: list[str]) -> None:
    """The accuracies; a run that cells of several folders share must have come to the same result in all."""
    found: dict[str, tuple[Path, UtilityFile]] = {}
    for folder in folders:
        for path in utility_paths(folder):
            content = read_utility(path)
            there, old = found.setdefault(path.name, (folder, content))
            if old.result != content.result:
                raise InputError(
                    f"The accuracy run {path.stem} has another result in {folder} than in {there}; "
                    "leave one of the folders out."
                )
            names = {*old.cells, *content.cells}
            cells = tuple(name for name in order if name in names)
            found[path.name] = (there, replace(old, cells=cells))
    for name, (_, one) in found.items():
        write_utility(out / name, cells=one.cells, spec=one.spec, result=to_plain(one.result))


def _write(path: Path, table: pa.Table) -> None:
    write_atomically(path, parquet_bytes(table))
