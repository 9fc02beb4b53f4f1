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

import pyarrow as pa

from fl_core.base.errors import InputError, first_line
from orchestrator.config.space import Params, Scalar
from orchestrator.io.files import Damaged, append_line, read_bytes, sealed, typed, unsealed, write_atomically
from orchestrator.results import schema
from orchestrator.results.there import LOG

Row = dict[str, Any]

log = logging.getLogger(__name__)

_NEEDED = ("trial_id", "image_id", "status", "psnr", "seconds", "gpu_seconds")
"""Columns without which a row is no result."""

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
    """A suggestion: its parameters, its state (`asked`, `ok`, `failed`, `pruned`), value, trials and work."""

    study: str
    suggestion: int
    params: Params
    state: str
    value: float | None
    trial_ids: tuple[str, ...]
    work: float | None = None


@dataclass(frozen=True)
class _Suggested:
    """A line that holds a suggestion."""

    suggestion: StudyRow


@dataclass(frozen=True)
class _Logged:
    """A line that holds a finished trial; times are text, pictures base64."""

    trial: str
    rows: tuple[dict[str, Scalar], ...]
    images: tuple[dict[str, str | None], ...]


class Journal:
    """`pending.jsonl`: appended to at once, emptied when its content is in Parquet."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOG
        self._synced_at = -math.inf

    def add(self, entry: FinishedTrial | StudyRow, *, allowed: Callable[[], None]) -> None:
        """Append an entry; see `append_line` for `allowed` and errors.

        A killed process loses nothing that was written. A power cut takes what was not synced: a trial of the last
        moment, which is run again, or a suggestion, which is made again as it was.
        """
        content = {"suggestion": vars(entry)} if isinstance(entry, StudyRow) else _trial_content(entry)
        line = json.dumps(sealed({"version": schema.VERSION, **content}), allow_nan=True) + "\n"
        due = time.monotonic() - self._synced_at > SYNC_SECONDS
        sync = due and isinstance(entry, FinishedTrial)
        append_line(self.path, line.encode(), sync=sync, allowed=allowed)
        if sync:
            self._synced_at = time.monotonic()

    def entries(self, *, mend: bool = False) -> Iterator[FinishedTrial | StudyRow]:
        """What is there, in the order in which it was added.

        A last line that a kill or a full disk cut off is left out, with a warning: its trial is run again. So is any
        other damaged line for who will `mend` that, by running its trial again; for everybody else it is `Damaged`.
        Raises `InputError` where another version wrote here.
        """
        try:
            *lines, last = read_bytes(self.path).split(b"\n")
        except FileNotFoundError:
            return
        for number, line in enumerate([*lines, last] if last else lines, start=1):
            try:
                yield self._entry(unsealed(line))
            except InputError:
                raise
            except ValueError as error:
                torn = number > len(lines)
                if not (torn or mend):
                    what = f"line {number}: {first_line(error)}"
                    raise Damaged.of(
                        self.path, what, "run the sweep again, which repeats its trial"
                    ) from error
                what = "cut off" if torn else f"damaged ({first_line(error)})"
                log.warning("%s: line %d is %s and does not count", self.path, number, what)

    def _entry(self, content: Row) -> FinishedTrial | StudyRow:
        """A line's content as what it stands for; raises `ValueError` where that is nothing."""
        version = content.get("version", "none")
        if version != schema.VERSION:
            raise InputError(
                f"{self.path} has schema version {version}, this gradsweep writes and reads {schema.VERSION}; "
                "use another --out, or the gradsweep that wrote it."
            )
        if "suggestion" in content:
            return typed(_Suggested, content).suggestion
        found = typed(_Logged, content)
        if not found.rows or any(row.get("trial_id") != found.trial for row in found.rows):
            raise ValueError("no rows of its trial")
        return FinishedTrial(found.trial, tuple(map(_row, found.rows)), tuple(map(_image, found.images)))

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


def _row(row: Row) -> Row:
    """A row as it was before it was written; raises `ValueError` for what no trial writes."""
    found: Row = row | {"started_at": datetime.fromisoformat(str(row.get("started_at")))}
    try:
        schema.trials_table([found], schema.TRIALS_BASE)
    except (pa.ArrowException, TypeError) as error:
        raise ValueError(first_line(error)) from error
    lacking = [name for name in _NEEDED if name not in row]
    if lacking:
        raise ValueError(f"a row without {lacking[0]}")
    return found


def _image(image: Row) -> Row:
    pictures = {name: image.get(name) for name in ("original", "reconstruction")}
    return image | {name: base64.b64decode(value, validate=True) for name, value in pictures.items() if value}
