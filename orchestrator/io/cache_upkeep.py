"""What a shared cache holds, and what of it goes: old entries, or the ones not used for longest.

Sweeps may use the cache meanwhile. An entry is renamed before its files go, so whoever reads it at that moment finds
all of it or nothing, and nothing means that it is computed again.
"""

from __future__ import annotations

import math
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from fl_core.base.errors import InputError
from orchestrator.io.cache import Kind

_KEY = re.compile(r"[0-9a-f]{20}")
_SCRATCH = re.compile(r"_[0-9a-f]{20}-[0-9a-f]{8}")
ABANDONED = 86400.0
"""Seconds after which a half-written entry is one that nobody finishes."""


@dataclass(frozen=True)
class Entry:
    """A folder of the cache: the code that made it, its kind, its bytes, and the seconds since it was last used.

    `whole` is false for what a driver that was killed left half-written.
    """

    path: Path
    code: str
    kind: Kind
    size: int
    unused: float
    whole: bool = True


def entries(folder: Path) -> list[Entry]:
    """The entries of a cache, those last used first. Raises `InputError` where the folder is missing or is none."""
    if not folder.is_dir():
        what = "is no folder" if folder.exists() else "is not there"
        raise InputError(f"{folder} {what}; give the folder that sweeps had as --cache.")
    now = time.time()
    return sorted(_entries(folder, now), key=lambda entry: (entry.unused, str(entry.path)))


def outdated(found: Iterable[Entry], *, keep: int | None, older_than: float | None) -> list[Entry]:
    """Which of the entries go.

    Those unused for more than `older_than` seconds, and of the others, the longest unused first, as many as it takes
    until at most `keep` bytes are left. None: no bound. Half-written ones of a day ago go too.
    """
    gone, used = [], 0
    for entry in sorted(found, key=lambda one: one.unused):
        used += entry.size
        old = entry.unused > (
            ABANDONED if not entry.whole else math.inf if older_than is None else older_than
        )
        if old or (entry.whole and keep is not None and used > keep):
            gone.append(entry)
    return gone


def remove(gone: Iterable[Entry]) -> int:
    """Remove entries; how many bytes that were. What somebody else removes meanwhile counts for nobody."""
    freed = 0
    for entry in gone:
        aside = entry.path
        if entry.whole:
            aside = entry.path.with_name(f"_{entry.path.name}-{secrets.token_hex(4)}")
            try:
                entry.path.rename(aside)
            except FileNotFoundError:
                continue
        shutil.rmtree(aside, ignore_errors=True)
        freed += entry.size
        for parent in (entry.path.parent, entry.path.parent.parent):
            with suppress(OSError):  # It holds others.
                parent.rmdir()
    return freed


def _entries(folder: Path, now: float) -> Iterator[Entry]:
    for code in _folders(folder):
        for kind in get_args(Kind):
            for path in _folders(code / kind) if _KEY.fullmatch(code.name) else ():
                whole = bool(_KEY.fullmatch(path.name))
                if not (whole or _SCRATCH.fullmatch(path.name)):
                    continue
                with suppress(FileNotFoundError):  # Somebody else removed it.
                    size = sum(file.stat().st_size for file in path.iterdir())
                    yield Entry(path, code.name, kind, size, max(0.0, now - path.stat().st_mtime), whole)


def _folders(place: Path) -> list[Path]:
    """The folders in a place, no links; none where it is missing."""
    try:
        return [path for path in sorted(place.iterdir()) if path.is_dir() and not path.is_symlink()]
    except (FileNotFoundError, NotADirectoryError):
        return []
