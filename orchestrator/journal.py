"""The log of a results folder: what finished but is not in Parquet yet, one JSON object a line."""

from __future__ import annotations

import base64
import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from fl_core.errors import InputError
from orchestrator import schema
from orchestrator.files import append_line, read_bytes, write_atomically
from orchestrator.space import Params

Row = dict[str, Any]

log = logging.getLogger(__name__)

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

    @classmethod
    def of(cls, row: Row) -> StudyRow:
        """From a row as it was written."""
        return cls(**(row | {"trial_ids": tuple(row["trial_ids"])}))


class Journal:
    """`pending.jsonl`: appended to at once, emptied when its content is in Parquet."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "pending.jsonl"
        self._synced_at = -math.inf

    def add(self, entry: FinishedTrial | StudyRow, *, allowed: Callable[[], None]) -> None:
        """Append an entry; see `append_line` for `allowed` and errors.

        A killed process loses nothing that was written. A power cut takes what was not synced: a trial of the last
        moment, which is run again, or a suggestion, which is made again as it was.
        """
        content = {"suggestion": vars(entry)} if isinstance(entry, StudyRow) else _trial_content(entry)
        line = json.dumps({"version": schema.VERSION} | content, allow_nan=True) + "\n"
        due = time.monotonic() - self._synced_at > SYNC_SECONDS
        sync = due and isinstance(entry, FinishedTrial)
        append_line(self.path, line.encode(), sync=sync, allowed=allowed)
        if sync:
            self._synced_at = time.monotonic()

    def entries(self) -> Iterator[FinishedTrial | StudyRow]:
        """What is there, in the order in which it was added.

        A line that a kill or a full disk cut off is left out, with a warning: its trial is run again. Raises
        `InputError` where another version wrote here.
        """
        try:
            text = read_bytes(self.path).decode(errors="replace")
        except FileNotFoundError:
            return
        for number, line in enumerate(text.splitlines(), start=1):
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                log.warning("%s: line %d is cut off and does not count", self.path, number)
                continue
            version = entry.get("version", "none")
            if version != schema.VERSION:
                raise InputError(
                    f"{self.path} has schema version {version}, this gradsweep writes and reads {schema.VERSION}; "
                    "use another --out, or the gradsweep that wrote it."
                )
            yield StudyRow.of(entry["suggestion"]) if "suggestion" in entry else _trial(entry)

    def clear(self, *, allowed: Callable[[], None]) -> None:
        """Empty it, if it is there."""
        if self.path.exists():
            write_atomically(self.path, b"", allowed=allowed)


def _trial_content(trial: FinishedTrial) -> Row:
    images = [
        {k: base64.b64encode(v).decode() if isinstance(v, bytes) else v for k, v in image.items()}
        for image in trial.images
    ]
    rows = [
        {k: v.isoformat() if isinstance(v, datetime) else v for k, v in row.items()} for row in trial.rows
    ]
    return {"trial": trial.trial_id, "rows": rows, "images": images}


def _trial(entry: Row) -> FinishedTrial:
    rows = tuple(row | {"started_at": datetime.fromisoformat(row["started_at"])} for row in entry["rows"])
    images = tuple(
        image | {k: base64.b64decode(image[k]) for k in ("original", "reconstruction") if image[k]}
        for image in entry["images"]
    )
    return FinishedTrial(entry["trial"], rows, images)
