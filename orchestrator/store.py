"""The results folder: one writer, an append-only log for safety, Parquet for everybody else.

A finished trial goes to `pending.jsonl` at once and, with others, into a Parquet part a little later. A crash
between the two loses nothing: what the log holds beyond the parts is taken over at the next start. Files
that are being written have names that begin with `_`, which Parquet readers ignore.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from fl_core.errors import InputError
from orchestrator import schema
from orchestrator.files import clearly, persistently, read_json, write_atomically
from orchestrator.journal import FinishedTrial, Journal, Row, StudyRow
from orchestrator.lease import Lease
from orchestrator.space import Params

__all__ = ["FinishedTrial", "ResultStore", "Row", "StudyRow"]

FLUSH_ROWS = 200
FLUSH_SECONDS = 30.0


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

    def add_suggestion(self, row: StudyRow) -> None:
        """Record a suggestion, or its new state."""
        if self._studies.get((row.study, row.suggestion)) == row:
            return
        self._studies[(row.study, row.suggestion)] = row
        self._journal.add(row, allowed=self._lease.check)

    def flush(self) -> None:
        """Move the log's content into Parquet."""
        self._flushing = True
        images = [image for trial in self._pending for image in trial.images]
        if images:
            self._write_part("images", _pictures_table(images))
        # After the pictures: a trial whose rows are in Parquet is never looked up in the log again.
        rows = [row for trial in self._pending for row in trial.rows]
        if rows:
            self._write_part("trials", pa.Table.from_pylist(rows, schema=self._schema))
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
        for name, kind in (("trials", self._schema), ("images", schema.IMAGES)):
            parts = _parts(self.folder / name)
            if len(parts) > 1:
                table = _scan(parts, kind)
                self._part += 1
                merged = self.folder / name / f"part-{self._part:06d}.parquet"
                plan = {"merged": merged.name, "replaces": [part.name for part in parts]}
                check = self._lease.check
                write_atomically(_plan_path(merged.parent), json.dumps(plan).encode(), allowed=check)
                _write_parquet(merged, table, check)
                check()
                _finish_compaction(merged.parent)

    def _write_part(self, name: str, table: pa.Table) -> None:
        self._part += 1
        path = self.folder / name / f"part-{self._part:06d}.parquet"
        _write_parquet(path, table, self._lease.check)

    def _load(self) -> None:
        for name in ("trials", "images"):
            _finish_compaction(self.folder / name)
        trials, images = _parts(self.folder / "trials"), _parts(self.folder / "images")
        numbers = [int(part.stem.removeprefix("part-")) for part in [*trials, *images]]
        self._part = max(numbers, default=0)
        for part in trials:
            self._check_columns(part)
        if trials:
            for row in _scan(trials, self._schema).to_pylist():
                self._rows.setdefault(row["trial_id"], []).append(row)
        for study in _recorded(self.folder):
            self._studies[(study.study, study.suggestion)] = study
        self._adopt_log()

    def _check_columns(self, part: Path) -> None:
        found = _read_schema(part)
        if found.remove_metadata() != self._schema.remove_metadata():
            raise InputError(
                f"{part} has other columns than this sweep's search spaces give; use another --out."
            )

    def _adopt_log(self) -> None:
        pictured = set(_stored_images(self.folder).column("trial_id").to_pylist())
        for entry in self._journal.entries():
            if isinstance(entry, StudyRow):
                self._studies[(entry.study, entry.suggestion)] = entry
            elif entry.trial_id not in self._rows:
                self._rows[entry.trial_id] = list(entry.rows)
                images = () if entry.trial_id in pictured else entry.images
                self._pending.append(FinishedTrial(entry.trial_id, entry.rows, images))
        self.flush()


def data_by_cell(rows: Iterable[Row]) -> dict[str, set[str]]:
    """The values of the column `data`, by cell."""
    found: dict[str, set[str]] = {}
    for row in rows:
        found.setdefault(row["cell"], set()).add(row["data"])
    return found


def read_rows(folder: Path) -> pa.Table:
    """All trial rows of a results folder, those that are only in its log too.

    Raises `InputError` where there are none, or of another version.
    """
    # The log first: what moves to Parquet meanwhile is then seen twice, not missed.
    logged = _logged_trials(folder)
    parts = _parts(folder / "trials")
    if not parts and not logged:
        raise InputError(f"{folder} holds no results: {folder / 'trials'} has no Parquet file.")
    schemas = [_read_schema(part) for part in parts]
    stored = _scan(parts, schemas[0]) if parts else _no_rows(logged)
    known = set(stored.column("trial_id").to_pylist())
    rows = [row for trial_id, entry in logged.items() if trial_id not in known for row in entry.rows]
    found = pa.concat_tables([stored, pa.Table.from_pylist(rows, schema=stored.schema)])
    if not len(found):
        raise InputError(f"{folder} holds no results: the Parquet files in {folder / 'trials'} have no rows.")
    return found


def read_images(folder: Path) -> pa.Table:
    """All pictures of a results folder, those that are only in its log too; empty where none were kept."""
    logged = _logged_trials(folder)
    stored = _stored_images(folder)
    known = set(stored.column("trial_id").to_pylist())
    fresh = [row for trial_id, entry in logged.items() if trial_id not in known for row in entry.images]
    return pa.concat_tables([stored, _pictures_table(fresh)])


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
    _read_schema(path)
    rows = _scan([path], schema.STUDIES).to_pylist()
    return [StudyRow.of(row | {"params": json.loads(row["params"])}) for row in rows]


def _studies_table(rows: Iterable[StudyRow]) -> pa.Table:
    ordered = sorted(rows, key=lambda row: (row.study, row.suggestion))
    plain = [vars(row) | {"params": json.dumps(row.params)} for row in ordered]
    return pa.Table.from_pylist(plain, schema=schema.STUDIES)


def _pictures_table(images: Iterable[Row]) -> pa.Table:
    pictures = [{name: _picture(value) for name, value in image.items()} for image in images]
    return pa.Table.from_pylist(pictures, schema=schema.IMAGES)


def _stored_images(folder: Path) -> pa.Table:
    parts = _parts(folder / "images")
    for part in parts:
        _read_schema(part)
    return _scan(parts, schema.IMAGES) if parts else schema.IMAGES.empty_table()


def _no_rows(logged: Mapping[str, FinishedTrial]) -> pa.Table:
    """The columns of a folder that has nothing but a log; those of searches take the type of their values."""
    rows = [row for entry in logged.values() for row in entry.rows]
    names = sorted({name for row in rows for name in row} - {name for name, _ in schema.BASE})
    searched = [(name, pa.array([row.get(name) for row in rows]).type) for name in names]
    return pa.schema([*schema.BASE, *searched], metadata={"gradsweep": schema.VERSION}).empty_table()


def _read_schema(part: Path) -> pa.Schema:
    """The columns of one Parquet file; raises `InputError` where it is unreadable or of another version."""
    try:
        found = persistently(part, lambda: pq.read_schema(part))
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(
            f"{part} is not a readable Parquet file ({error}); remove it to run its trials again."
        ) from error
    version = (found.metadata or {}).get(b"gradsweep", b"none").decode()
    if version != schema.VERSION:
        raise InputError(
            f"{part} has schema version {version}, this gradsweep writes and reads {schema.VERSION}; "
            "use another --out, or the gradsweep that wrote it."
        )
    return found


def _scan(parts: Sequence[Path], columns: pa.Schema) -> pa.Table:
    """The rows of several files. The schema is named: a reader that takes the first file's drops newer columns."""
    with clearly("read", parts[0].parent):
        return persistently(parts[0].parent, lambda: pads.dataset(list(parts), schema=columns).to_table())


def _parts(folder: Path) -> list[Path]:
    """The parts in force: without those that an unfinished compaction has merged already."""
    plan = read_json(_plan_path(folder)) if _plan_path(folder).exists() else None
    merged = plan is not None and (folder / plan["merged"]).exists()
    replaced = set(plan["replaces"]) if plan is not None and merged else set()
    return [part for part in sorted(folder.glob("part-*.parquet")) if part.name not in replaced]


def _write_parquet(path: Path, table: pa.Table, allowed: Callable[[], None]) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    write_atomically(path, sink.getvalue().to_pybytes(), allowed=allowed)


def _plan_path(folder: Path) -> Path:
    return folder / "_compaction.json"


def _finish_compaction(folder: Path) -> None:
    """Remove the parts that a merged file replaces; where the merged file was not written, drop the plan."""
    path = _plan_path(folder)
    if not path.exists():
        return
    plan = read_json(path)
    if (folder / plan["merged"]).exists():
        for name in plan["replaces"]:
            # The name alone: a folder that somebody sent must not make files elsewhere vanish.
            (folder / Path(name).name).unlink(missing_ok=True)
    path.unlink()


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
