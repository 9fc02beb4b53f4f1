"""The results folder: one writer, an append-only log for safety, Parquet for everybody else.

A finished trial goes to `pending.jsonl` at once and, with others, into a Parquet part a little later. A crash
between the two loses nothing: what the log holds beyond the parts is taken over at the next start. Files
that are being written have names that begin with `_`, which Parquet readers ignore.
"""

from __future__ import annotations

import base64
import json
import math
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from fl_core.errors import InputError
from orchestrator import schema
from orchestrator.files import write_atomically
from orchestrator.space import Params

Row = dict[str, Any]

FLUSH_ROWS = 200
FLUSH_SECONDS = 30.0
SYNC_SECONDS = 0.1
"""How soon after a sync of the log the next one may be: thousands of short trials would wait for the disk."""


@dataclass(frozen=True)
class FinishedTrial:
    """A trial's rows and its pictures (PNG bytes by column; empty where none are kept)."""

    trial_id: str
    rows: tuple[Row, ...]
    images: tuple[Row, ...] = ()


@dataclass(frozen=True)
class StudyRow:
    """A suggestion: its parameters, its state (`asked`, `ok`, `failed`), value and trials."""

    study: str
    suggestion: int
    params: Params
    state: str
    value: float | None
    trial_ids: tuple[str, ...]


class ResultStore:
    """Reads and writes one results folder. Use as a context manager: it holds the folder's lock."""

    def __init__(self, folder: Path, trials: pa.Schema) -> None:
        self.folder, self._schema = folder, trials
        self._lock = FileLock(folder / ".lock")
        self._pending: list[FinishedTrial] = []
        self._studies: dict[tuple[str, int], StudyRow] = {}
        self._rows: dict[str, list[Row]] = {}
        self._flushed_at = time.monotonic()
        self._synced_at = -math.inf
        self._part = 0

    def __enter__(self) -> ResultStore:
        """Take the lock and read what an earlier run left; raises `InputError` where that is impossible."""
        try:
            for name in ("trials", "studies", "images"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise InputError(
                f"{self.folder} is in use by another gradsweep; wait for it or use another --out."
            ) from error
        except OSError as error:
            raise InputError(
                f"Cannot write to {self.folder}: {error.strerror}; use another --out."
            ) from error
        try:
            self._load()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Write out what is pending and release the lock."""
        try:
            self.flush()
        finally:
            self._lock.release()

    def rows(self, trial_id: str) -> Sequence[Row] | None:
        """The rows of a finished trial, or None."""
        return self._rows.get(trial_id)

    def suggestions(self, study: str) -> dict[int, Params]:
        """The recorded suggestions of a study."""
        return {row.suggestion: row.params for row in self._studies.values() if row.study == study}

    def add_trial(self, trial: FinishedTrial) -> None:
        """Record a finished trial for good; a second result of the same trial is refused (`ValueError`)."""
        if trial.trial_id in self._rows:
            raise ValueError(f"trial {trial.trial_id} already has a result")
        images = [
            {k: base64.b64encode(v).decode() if isinstance(v, bytes) else v for k, v in image.items()}
            for image in trial.images
        ]
        rows = [
            {k: v.isoformat() if isinstance(v, datetime) else v for k, v in row.items()} for row in trial.rows
        ]
        # A killed process loses nothing that was written; a power cut takes what was not synced, which is run again.
        due = time.monotonic() - self._synced_at > SYNC_SECONDS
        self._log({"trial": trial.trial_id, "rows": rows, "images": images}, sync=due)
        self._rows[trial.trial_id] = list(trial.rows)
        self._pending.append(trial)
        due = time.monotonic() - self._flushed_at > FLUSH_SECONDS
        if due or sum(len(t.rows) for t in self._pending) >= FLUSH_ROWS:
            self.flush()

    def add_suggestion(self, row: StudyRow) -> None:
        """Record a suggestion, or its new state."""
        if self._studies.get((row.study, row.suggestion)) == row:
            return
        self._studies[(row.study, row.suggestion)] = row
        # Synced together with the next trial: a suggestion that a power cut takes is made again as it was.
        self._log({"suggestion": vars(row)}, sync=False)

    def flush(self) -> None:
        """Move the log's content into Parquet."""
        if self._pending:
            images = [image for trial in self._pending for image in trial.images]
            if images:
                pictures = [{k: _picture(v) for k, v in image.items()} for image in images]
                self._write_part("images", pa.Table.from_pylist(pictures, schema=schema.IMAGES))
            # After the pictures: a trial whose rows are in Parquet is never looked up in the log again.
            rows = [row for trial in self._pending for row in trial.rows]
            self._write_part("trials", pa.Table.from_pylist(rows, schema=self._schema))
        if self._studies:
            ordered = sorted(self._studies.values(), key=lambda row: (row.study, row.suggestion))
            plain = [vars(row) | {"params": json.dumps(row.params)} for row in ordered]
            table = pa.Table.from_pylist(plain, schema=schema.STUDIES)
            _write_parquet(self.folder / "studies" / "studies.parquet", table)
        self._pending.clear()
        self._flushed_at = time.monotonic()
        if self._log_path.exists():
            write_atomically(self._log_path, b"")

    def compact(self) -> None:
        """Merge the Parquet parts of trials and images into one file each; a crash midway loses and doubles nothing."""
        self.flush()
        for name, kind in (("trials", self._schema), ("images", schema.IMAGES)):
            parts = _parts(self.folder / name)
            if len(parts) > 1:
                # Scans name the schema: a reader that takes the first file's would drop newer columns.
                table = pads.dataset(parts, schema=kind).to_table()
                self._part += 1
                merged = self.folder / name / f"part-{self._part:06d}.parquet"
                plan = {"merged": merged.name, "replaces": [part.name for part in parts]}
                write_atomically(_plan_path(merged.parent), json.dumps(plan).encode())
                _write_parquet(merged, table)
                _finish_compaction(merged.parent)

    @property
    def _log_path(self) -> Path:
        return self.folder / "pending.jsonl"

    def _log(self, entry: Row, *, sync: bool) -> None:
        with self._log_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, allow_nan=True) + "\n")
            file.flush()
            if sync:
                os.fsync(file.fileno())
                self._synced_at = time.monotonic()

    def _write_part(self, name: str, table: pa.Table) -> None:
        self._part += 1
        _write_parquet(self.folder / name / f"part-{self._part:06d}.parquet", table)

    def _load(self) -> None:
        for name in ("trials", "images"):
            _finish_compaction(self.folder / name)
        trials, images = _parts(self.folder / "trials"), _parts(self.folder / "images")
        numbers = [int(part.stem.removeprefix("part-")) for part in [*trials, *images]]
        self._part = max(numbers, default=0)
        for part in trials:
            self._check_columns(part)
        if trials:
            for row in pads.dataset(trials, schema=self._schema).to_table().to_pylist():
                self._rows.setdefault(row["trial_id"], []).append(row)
        studies = self.folder / "studies" / "studies.parquet"
        if studies.exists():
            for row in pq.read_table(studies, schema=schema.STUDIES).to_pylist():
                self._keep_suggestion(row | {"params": json.loads(row["params"])})
        self._adopt_log()

    def _check_columns(self, part: Path) -> None:
        found = _read_schema(part)
        if found.remove_metadata() != self._schema.remove_metadata():
            raise InputError(
                f"{part} has other columns than this sweep's search spaces give; use another --out."
            )

    def _keep_suggestion(self, row: Row) -> None:
        kept = StudyRow(**(row | {"trial_ids": tuple(row["trial_ids"])}))
        self._studies[(kept.study, kept.suggestion)] = kept

    def _adopt_log(self) -> None:
        if not self._log_path.exists():
            return
        pictured = set(read_images(self.folder).column("trial_id").to_pylist())
        for line in self._log_path.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue  # The torn last line of a killed run: its trial runs again.
            if "suggestion" in entry:
                self._keep_suggestion(entry["suggestion"])
            elif entry["trial"] not in self._rows:
                trial = _from_log(entry, with_images=entry["trial"] not in pictured)
                self._rows[trial.trial_id] = list(trial.rows)
                self._pending.append(trial)
        self.flush()


def read_rows(folder: Path) -> pa.Table:
    """All trial rows of a results folder; raises `InputError` where there are none, or of another version."""
    parts = _parts(folder / "trials")
    if not parts:
        raise InputError(f"{folder} holds no results: {folder / 'trials'} has no Parquet file.")
    return pads.dataset(parts, schema=_read_schema(parts[0])).to_table()


def read_images(folder: Path) -> pa.Table:
    """All pictures of a results folder; empty where none were kept."""
    parts = _parts(folder / "images")
    return pads.dataset(parts, schema=schema.IMAGES).to_table() if parts else schema.IMAGES.empty_table()


def _read_schema(part: Path) -> pa.Schema:
    """The columns of one file of trials; raises `InputError` where it is unreadable or of another version."""
    try:
        found = pq.read_schema(part)
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


def _parts(folder: Path) -> list[Path]:
    """The parts in force: without those that an unfinished compaction has merged already."""
    plan = json.loads(_plan_path(folder).read_bytes()) if _plan_path(folder).exists() else None
    merged = plan is not None and (folder / plan["merged"]).exists()
    replaced = set(plan["replaces"]) if plan is not None and merged else set()
    return [part for part in sorted(folder.glob("part-*.parquet")) if part.name not in replaced]


def _write_parquet(path: Path, table: pa.Table) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    write_atomically(path, sink.getvalue().to_pybytes())


def _plan_path(folder: Path) -> Path:
    return folder / "_compaction.json"


def _finish_compaction(folder: Path) -> None:
    """Remove the parts that a merged file replaces; where the merged file was not written, drop the plan."""
    path = _plan_path(folder)
    if not path.exists():
        return
    plan = json.loads(path.read_bytes())
    if (folder / plan["merged"]).exists():
        for name in plan["replaces"]:
            (folder / name).unlink(missing_ok=True)
    path.unlink()


def _from_log(entry: Row, *, with_images: bool) -> FinishedTrial:
    rows = tuple(row | {"started_at": datetime.fromisoformat(row["started_at"])} for row in entry["rows"])
    images = tuple(
        image | {k: base64.b64decode(image[k]) for k in ("original", "reconstruction") if image[k]}
        for image in entry["images"]
    )
    return FinishedTrial(entry["trial"], rows, images if with_images else ())


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
