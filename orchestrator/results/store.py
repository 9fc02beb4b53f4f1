"""The results folder: one writer, an append-only log for safety, Parquet for everybody else.

A finished trial goes to `pending.jsonl` at once and, with others, into a Parquet part a little later. A crash
between the two loses nothing: what the log holds beyond the parts is taken over at the next start. Files
that are being written have names that begin with `_`, which Parquet readers ignore.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from fl_core.base.errors import InputError
from orchestrator.config.space import Params
from orchestrator.io.files import Damaged, clearly, read_json, typed, write_atomically, write_json
from orchestrator.io.parquet import parquet_bytes, read_parquet
from orchestrator.io.retries import patiently
from orchestrator.results import schema
from orchestrator.results.journal import FinishedTrial, Journal, Row, StudyRow
from orchestrator.results.lease import Lease
from orchestrator.results.schema import trials_table
from orchestrator.results.there import NoResults, no_results

__all__ = ["FinishedTrial", "ResultStore", "Row", "StudyRow"]

FLUSH_ROWS = 200
FLUSH_SECONDS = 30.0

log = logging.getLogger(__name__)

_REMEDIES = {
    "trials": "remove it to run its trials again",
    "images": "remove it: the report then lacks its pictures, and no figure",
    "studies": "remove it: the sweep makes its suggestions again",
}
"""What helps where a Parquet file in the folder of this name is damaged."""


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """An unfinished compaction: the name of the new part, and of those that it replaces."""

    merged: str
    replaces: tuple[str, ...]


class ResultStore:
    """Reads and writes one results folder. Use as a context manager: it owns the folder meanwhile.

    Every write first checks that the folder is still ours; a disk that is full, and a folder that another machine
    took over, are an `InputError`, and what was recorded before stays.
    """

    def __init__(self, folder: Path, trials: pa.Schema) -> None:
        self.folder, self._schema = folder, trials
        self._lease, self._journal = Lease(folder), Journal(folder)
        self._pending: list[FinishedTrial] = []
        self._studies: dict[tuple[str, int], StudyRow] = {}
        self._rows: dict[str, list[Row]] = {}
        self._pictured: set[str] = set()
        self._flushed_at = time.monotonic()
        self._part = 0
        self._flushing = False

    def __enter__(self) -> ResultStore:
        """Own the folder and read what an earlier run left; raises `InputError` where that is impossible."""
        try:
            for name in ("trials", "studies", "images"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"Cannot write to {self.folder}: {error.strerror}; use another --out."
            ) from error
        self._lease.acquire()
        try:
            self._load()
        except BaseException:
            self._lease.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Write out what is pending and give the folder back.

        After a flush that was broken off, by a full disk for one, nothing more is written: the log holds it all,
        and the next start takes it from there.
        """
        try:
            if not self._flushing:
                self.flush()
        finally:
            self._lease.release()

    def rows(self, trial_id: str) -> Sequence[Row] | None:
        """The rows of a finished trial, or None."""
        return self._rows.get(trial_id)

    @property
    def empty(self) -> bool:
        """Whether no trial is finished."""
        return not self._rows

    def weights_of(self, cell: str, seed: int, *, first: int) -> str | None:
        """The hash of the weights that the cell's finished trials at `seed` attacked; None where there is none.

        Rows of older versions do not say their seed, which is the sweep's `first`.
        """
        mine = (rows[0] for rows in self._rows.values() if rows[0].get("cell") == cell)
        at = (seed, None) if seed == first else (seed,)
        found = (row.get("weights") for row in mine if row.get("sweep_seed") in at)
        weights = next(found, None)
        return None if weights is None else str(weights).rpartition(":")[2]

    def priors_of(self, cell: str, attacker: str, seed: int) -> set[str]:
        """The trained priors that the attacker's finished trials in the cell at `seed` had, as the rows have them."""
        first = (rows[0] for rows in self._rows.values())
        mine = (row for row in first if (row.get("cell"), row.get("attacker")) == (cell, attacker))
        return {str(row["prior"]) for row in mine if row.get("sweep_seed") == seed and row.get("prior")}

    def forget_suggestions(self) -> None:
        """Remove every recorded suggestion; for a folder whose first sweep finished nothing."""
        self._studies.clear()
        self._journal.clear(allowed=self._lease.check)
        path = self.folder / "studies" / "studies.parquet"
        with clearly("remove", path):
            path.unlink(missing_ok=True)

    def suggestions(self, study: str) -> dict[int, Params]:
        """The recorded suggestions of a study."""
        return {row.suggestion: row.params for row in self._studies.values() if row.study == study}

    @property
    def data(self) -> dict[str, set[str]]:
        """Which data sets the rows name, by cell."""
        return data_by_cell(row for rows in self._rows.values() for row in rows)

    def add_trial(self, trial: FinishedTrial) -> None:
        """Record a finished trial for good; a second result of the same trial is refused (`ValueError`)."""
        if trial.trial_id in self._rows:
            raise ValueError(f"trial {trial.trial_id} already has a result")
        # In memory first: a Ctrl-C in the middle of the log's line then still finds it here, and writes it out.
        self._rows[trial.trial_id] = list(trial.rows)
        self._pending.append(trial)
        self._journal.add(trial, allowed=self._lease.check)
        due = time.monotonic() - self._flushed_at > FLUSH_SECONDS
        if due or sum(len(t.rows) for t in self._pending) >= FLUSH_ROWS:
            self.flush()

    def forget(self, trials: Set[str]) -> None:
        """Take finished trials out for good, with their pictures, so that they run again.

        A crash midway leaves some of them: nothing else is lost.
        """
        self.flush()
        gone = pa.array(sorted(trials), pa.string())
        for name in ("trials", "images"):
            for part, table in _read_parts(self.folder / name).items():
                kept = table.filter(pc.invert(pc.is_in(table.column("trial_id"), value_set=gone)))
                if len(kept) == 0:
                    self._lease.check()
                    with clearly("remove", part):
                        part.unlink()
                elif len(kept) < len(table):
                    plain = kept.replace_schema_metadata({"gradsweep": schema.VERSION})
                    _write_parquet(part, plain, self._lease.check)
        self._rows = {trial: rows for trial, rows in self._rows.items() if trial not in trials}
        self._pictured -= trials

    def add_suggestion(self, row: StudyRow) -> None:
        """Record a suggestion, or its new state."""
        if self._studies.get((row.study, row.suggestion)) == row:
            return
        self._studies[(row.study, row.suggestion)] = row
        self._journal.add(row, allowed=self._lease.check)

    def flush(self) -> None:
        """Move the log's content into Parquet."""
        self._flushing = True
        fresh = [trial for trial in self._pending if trial.trial_id not in self._pictured]
        images = [image for trial in fresh for image in trial.images]
        if images:
            self._write_part("images", _pictures_table(images))
            self._pictured |= {trial.trial_id for trial in fresh}
        # After the pictures: a trial whose rows are in Parquet is never looked up in the log again.
        rows = [row for trial in self._pending for row in trial.rows]
        if rows:
            self._write_part("trials", trials_table(rows, self._schema))
        if self._studies:
            path = self.folder / "studies" / "studies.parquet"
            _write_parquet(path, _studies_table(self._studies.values()), self._lease.check)
        self._pending.clear()
        self._flushed_at = time.monotonic()
        self._journal.clear(allowed=self._lease.check)
        self._flushing = False

    def compact(self) -> None:
        """Merge the Parquet parts of trials and images into one file each; a crash midway loses and doubles nothing."""
        self.flush()
        check = self._lease.check
        for name, kind in (("trials", self._schema), ("images", schema.IMAGES)):
            folder = self.folder / name
            parts = _read_parts(folder)
            if len(parts) > 1:
                self._part += 1
                merged = folder / f"part-{self._part:06d}.parquet"
                plan = _Plan(merged=merged.name, replaces=tuple(part.name for part in parts))
                write_json(_plan_path(folder), vars(plan), allowed=check)
                _write_parquet(merged, _united(parts.values(), kind), check)
                check()
                _drop_replaced(folder, plan)

    def _write_part(self, name: str, table: pa.Table) -> None:
        self._part += 1
        path = self.folder / name / f"part-{self._part:06d}.parquet"
        _write_parquet(path, table, self._lease.check)

    def _load(self) -> None:
        warn_of_strays(self.folder)
        for name in ("trials", "images"):
            _finish_compaction(self.folder / name)
        trials, images = _read_parts(self.folder / "trials"), _read_parts(self.folder / "images")
        self._part = max((_number(part) for part in (*trials, *images)), default=0)
        for part, table in trials.items():
            self._check_columns(part, table.schema)
        for row in _united(trials.values(), self._schema).to_pylist():
            self._rows.setdefault(row["trial_id"], []).append(row)
        self._pictured = {trial for table in images.values() for trial in _trials_in(table)}
        for study in _recorded(self.folder):
            self._studies[(study.study, study.suggestion)] = study
        self._adopt_log()

    def _check_columns(self, part: Path, found: pa.Schema) -> None:
        """Raise `InputError` for a searched column of another type than this sweep's; columns may be missing.

        Which attackers a folder may gain and lose is not said by its columns, but by `check_folder`.
        """
        ours = {field.name: field.type for field in self._schema}
        for column in found:
            if ours.get(column.name, column.type) != column.type:
                raise InputError(
                    f"{part} has other columns than this sweep's search spaces give: {column.name} is {column.type} "
                    f"there and {ours[column.name]} here; use another --out."
                )

    def _adopt_log(self) -> None:
        for entry in self._journal.entries(mend=True):
            if isinstance(entry, StudyRow):
                self._studies[(entry.study, entry.suggestion)] = entry
            elif entry.trial_id not in self._rows:
                self._rows[entry.trial_id] = list(entry.rows)
                self._pending.append(entry)
        self.flush()


def data_by_cell(rows: Iterable[Row]) -> dict[str, set[str]]:
    """The values of the column `data`, by cell."""
    found: dict[str, set[str]] = {}
    for row in rows:
        found.setdefault(row["cell"], set()).add(row["data"])
    return found


def read_rows(folder: Path, columns: Collection[str] | None = None) -> pa.Table:
    """All trial rows of a results folder, those that are only in its log too.

    With `columns`, `trial_id` among them, only those, texts as dictionaries. Raises `NoResults` where there are none,
    `InputError` for those of another version.
    """
    # The log first: what moves to Parquet meanwhile is then seen twice, not missed.
    logged = _logged_trials(folder)
    parts = _read_parts(folder / "trials", columns)
    if not parts and not logged:
        raise no_results(folder)
    known = {trial for table in parts.values() for trial in _trials_in(table)}
    rows = [row for trial_id, entry in logged.items() if trial_id not in known for row in entry.rows]
    own = _narrowed(schema.schema_of(()).empty_table(), columns).schema
    present = pa.unify_schemas([own, *(_plain(table) for table in parts.values())])
    if columns is None:
        present = schema.schema_of(rows) if rows and not parts else present
        fresh = trials_table(rows, present)
    else:
        fresh = _narrowed(trials_table(rows, schema.schema_of(rows)), columns)
    found = _united([*parts.values(), fresh], present)
    if not len(found):
        raise NoResults(f"{folder} holds no results: the Parquet files in {folder / 'trials'} have no rows.")
    return found


def _narrowed(table: pa.Table, columns: Collection[str] | None) -> pa.Table:
    """Those of the columns that the table has, texts as dictionaries; the table itself where none are named."""
    if columns is None:
        return table
    chosen = table.select([name for name in table.column_names if name in columns])
    for i, field in enumerate(chosen.schema):
        if pa.types.is_string(field.type):
            chosen = chosen.set_column(i, field.name, chosen.column(i).dictionary_encode())
    return chosen


def read_images(folder: Path) -> pa.Table:
    """All pictures of a results folder, those that are only in its log too; empty where none were kept."""
    logged = _logged_trials(folder)
    parts = _read_parts(folder / "images")
    known = {trial for table in parts.values() for trial in _trials_in(table)}
    fresh = [row for trial_id, entry in logged.items() if trial_id not in known for row in entry.images]
    return _united([*parts.values(), _pictures_table(fresh)], schema.IMAGES)


def read_studies(folder: Path) -> pa.Table:
    """All suggestions of a results folder in their last state, by study; empty where no attacker was tuned."""
    logged = [entry for entry in Journal(folder).entries() if isinstance(entry, StudyRow)]
    rows = [*_recorded(folder), *logged]
    return _studies_table({(row.study, row.suggestion): row for row in rows}.values())


def _logged_trials(folder: Path) -> dict[str, FinishedTrial]:
    entries = Journal(folder).entries()
    return {entry.trial_id: entry for entry in entries if isinstance(entry, FinishedTrial)}


def _recorded(folder: Path) -> list[StudyRow]:
    """The suggestions that are in Parquet."""
    path = folder / "studies" / "studies.parquet"
    if not path.exists():
        return []
    rows = _read_part(path).to_pylist()
    try:
        return [typed(StudyRow, row | {"params": json.loads(row["params"])}) for row in rows]
    except (ValueError, TypeError, KeyError) as error:
        raise Damaged.of(path, error, _REMEDIES["studies"]) from error


def _studies_table(rows: Iterable[StudyRow]) -> pa.Table:
    ordered = sorted(rows, key=lambda row: (row.study, row.suggestion))
    plain = [vars(row) | {"params": json.dumps(row.params)} for row in ordered]
    return pa.Table.from_pylist(plain, schema=schema.STUDIES)


def _pictures_table(images: Iterable[Row]) -> pa.Table:
    pictures = [{name: _picture(value) for name, value in image.items()} for image in images]
    return pa.Table.from_pylist(pictures, schema=schema.IMAGES)


def _read_part(part: Path) -> pa.Table:
    """The table in one Parquet file; raises `InputError` where it is damaged or of another version."""
    kind = part.parent.name
    table = read_parquet(part, remedy=_REMEDIES[kind])
    version = (table.schema.metadata or {}).get(b"gradsweep", b"none").decode(errors="replace")
    if version != schema.VERSION:
        raise InputError(
            f"{part} has schema version {version}, this gradsweep writes and reads {schema.VERSION}; "
            "use another --out, or the gradsweep that wrote it."
        )
    unknown = schema.unknown_column(kind, table)
    if unknown is not None:
        raise InputError(
            f"{part} has the column {unknown!r}, which this gradsweep does not know; use the later version that wrote "
            "it, or another --out."
        )
    wrong = schema.misfit(kind, table)
    if wrong:
        raise Damaged.of(part, wrong, _REMEDIES[kind])
    return table


def _read_parts(folder: Path, columns: Collection[str] | None = None) -> dict[Path, pa.Table]:
    """The parts in force and their tables, in order; raises `InputError` where a trial lies in two of them.

    A sweep that runs meanwhile may merge parts: they are then listed again.
    """
    parts = patiently(
        folder,
        lambda: {part: _narrowed(_read_part(part), columns) for part in _parts(folder)},
        lambda error: isinstance(error, FileNotFoundError),
    )
    owner: dict[str, Path] = {}
    for part, table in parts.items():
        for trial in _trials_in(table):
            first = owner.setdefault(trial, part)
            if first != part:
                raise InputError(
                    f"{part} and {first} both hold trial {trial}; remove the copy, which is the one with fewer "
                    "trials or either of two equal ones."
                )
    return parts


def _trials_in(table: pa.Table) -> Iterator[str]:
    """The trials of a part, each once."""
    return iter(table.column("trial_id").unique().to_pylist())


def _united(tables: Iterable[pa.Table], columns: pa.Schema) -> pa.Table:
    """All rows with these columns; null where a table of an earlier version lacks one."""
    plain = [columns.empty_table(), *tables]
    return pa.concat_tables(plain, promote_options="default").replace_schema_metadata(columns.metadata)


def _plain(table: pa.Table) -> pa.Schema:
    """The columns without what single files say of them."""
    return table.schema.remove_metadata()


def _parts(folder: Path) -> list[Path]:
    """The parts in force: without those that an unfinished compaction has merged already."""
    plan = _plan(folder)
    merged = plan is not None and (folder / plan.merged).exists()
    replaced = set(plan.replaces) if plan is not None and merged else set()
    return [
        path
        for path in sorted(folder.glob("part-*"))
        if _PART.fullmatch(path.name) and path.name not in replaced
    ]


def warn_of_strays(folder: Path) -> None:
    """A warning for each file beside the parts: a copy for one, which does not count here but does for pandas."""
    for name in ("trials", "images"):
        for path in sorted((folder / name).glob("[!_.]*")):
            if not _PART.fullmatch(path.name):
                log.warning("%s is not a file of gradsweep and does not count; remove it", path)


_PART = re.compile(r"part-(\d{6,})\.parquet")


def _number(part: Path) -> int:
    return int(part.stem.removeprefix("part-"))


def _write_parquet(path: Path, table: pa.Table, allowed: Callable[[], None]) -> None:
    write_atomically(path, parquet_bytes(table), allowed=allowed)


def _plan_path(folder: Path) -> Path:
    return folder / "_compaction.json"


def _plan(folder: Path) -> _Plan | None:
    """The plan of an unfinished compaction, where there is one."""
    try:
        return read_json(_Plan, _plan_path(folder), remedy="remove it, and run the sweep again")
    except FileNotFoundError:
        return None


def _finish_compaction(folder: Path) -> None:
    """Remove the parts that a merged file replaces; where the merged file was not written, drop the plan."""
    plan = _plan(folder)
    if plan is None:
        return
    merged = folder / Path(plan.merged).name
    if merged.exists():
        held = set(_trials_in(_read_part(merged)))
        for part in (folder / Path(name).name for name in plan.replaces):
            if part.exists() and not held.issuperset(_trials_in(_read_part(part))):
                raise InputError(f"{merged} does not hold all trials of {part}; remove {_plan_path(folder)}.")
        _drop_replaced(folder, plan)
    _plan_path(folder).unlink(missing_ok=True)


def _drop_replaced(folder: Path, plan: _Plan) -> None:
    for name in plan.replaces:
        # The name alone: a folder that somebody sent must not make files elsewhere vanish.
        (folder / Path(name).name).unlink(missing_ok=True)
    _plan_path(folder).unlink(missing_ok=True)


def _picture(value: object) -> object:
    return {"bytes": value, "path": None} if isinstance(value, bytes) else value


def picture_rows(
    trial_id: str, pairs: Iterable[tuple[str | None, bytes | None, bytes | None]]
) -> tuple[Row, ...]:
    """Image rows from (image_id, original, reconstruction)."""
    return tuple(
        {"trial_id": trial_id, "image_id": image_id, "original": original, "reconstruction": reconstruction}
        for image_id, original, reconstruction in pairs
        if original is not None or reconstruction is not None
    )
