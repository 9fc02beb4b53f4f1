"""A cache that sweeps share: results of computations under the hash of everything that decides them.

An entry is a folder of files, written under another name and renamed: it is there whole or not at all, so several
drivers use one cache at once. Who comes second leaves the first one's entry. Every file has a checksum of its own, and
an entry that does not hold what was written to it counts as none.
"""

from __future__ import annotations

import os
import platform
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeVar

from fl_core.base.errors import InputError, first_line
from orchestrator.io.files import Damaged
from orchestrator.io.identity import content_hash
from orchestrator.io.provenance import code_digest, provenance

Kind = Literal["weights", "captures", "accuracies", "trials"]

T = TypeVar("T")

FORMAT = 1
"""Version of what keys and files of entries mean; a change makes old entries unused."""


def check_cache(folder: Path) -> None:
    """Raise `InputError` where the folder of a cache is missing or is none."""
    if not folder.is_dir():
        what = "is no folder" if folder.exists() else "is not there"
        raise InputError(f"--cache {folder} {what}; make the folder first, or leave --cache out.")


class Cache:
    """A folder of entries, in a folder of its own for each code that made them.

    `say` is told in a line what was damaged or could not be written; the sweep goes on without the cache then. `used`
    counts the entries that were taken, by kind.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        """Raises `InputError` where the folder is missing, is none, or cannot be written to."""
        self._folder, self._say = folder, say
        self._writes = True
        self.used: Counter[Kind] = Counter()
        check_cache(folder)
        probe = folder / f"_{secrets.token_hex(4)}"
        try:
            probe.mkdir()
            probe.rmdir()
        except OSError as error:
            raise InputError(
                f"--cache {folder} cannot be written to: {error.strerror}; name a folder that you may write to, or "
                "leave --cache out."
            ) from error

    def read(self, kind: Kind, key: str, parse: Callable[[Mapping[str, bytes]], T]) -> T | None:
        """What `parse` makes of the files of an entry, by their names; None where there is none that is whole.

        `parse` raises `Damaged`, `ValueError`, `KeyError` or `TypeError` for files that are not what was written; the
        entry is then removed. Other `InputError` pass.
        """
        place = self._place(kind, key)
        try:
            files = {path.name: path.read_bytes() for path in place.iterdir()}
        except FileNotFoundError:
            return None
        except OSError as error:
            self._say(f"the cache's {place} cannot be read ({error.strerror}); it is computed again")
            return None
        try:
            found = parse(files)
        except InputError as error:
            if not isinstance(error, Damaged):
                raise
            self._reject(place, error)
            return None
        except (ValueError, KeyError, TypeError) as error:
            self._reject(place, error)
            return None
        self.used[kind] += 1
        with suppress(
            OSError
        ):  # Its age is the time since its last use; a disk for reading alone keeps none.
            os.utime(place)
        return found

    def write(self, kind: Kind, key: str, files: Mapping[str, bytes]) -> None:
        """Keep an entry for others, unless there is one; after a write that failed none is tried any more."""
        place = self._place(kind, key)
        if not self._writes or place.exists():
            return
        scratch = place.with_name(f"_{key}-{secrets.token_hex(4)}")
        try:
            scratch.mkdir(parents=True)
            for name, content in files.items():
                with (scratch / name).open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
            try:
                scratch.rename(place)
            except OSError:
                if not place.is_dir():
                    raise
        except OSError as error:
            self._writes = False
            self._say(f"the cache {self._folder} takes no more ({error.strerror}); the sweep goes on without")
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    @cached_property
    def _root(self) -> Path:
        return self._folder / content_hash(
            {
                "format": FORMAT,
                "code": code_digest(),
                "versions": provenance()["versions"],
                "machine": [platform.system(), platform.machine()],
            }
        )

    def _place(self, kind: Kind, key: str) -> Path:
        return self._root / kind / key

    def _reject(self, place: Path, error: Exception) -> None:
        """Say that an entry is damaged and take it away: by its name first, so that nobody reads half of it."""
        what = (
            first_line(error) if isinstance(error, Damaged) else f"{place} is damaged ({first_line(error)})"
        )
        self._say(f"the cache's {what.rstrip('.')}; it counts as none")
        aside = place.with_name(f"_{place.name}-{secrets.token_hex(4)}")
        try:
            place.rename(aside)
        except OSError:
            return
        shutil.rmtree(aside, ignore_errors=True)


@dataclass(frozen=True, kw_only=True)
class Entries:
    """The entries of a cache for one cell; without a cache there are none, and none are kept.

    `context` is what decides their content and is in no key of theirs: device and threads, and by kind a hash of the
    bytes of the pictures that take part.
    """

    cache: Cache | None = None
    context: Mapping[str, object] = field(default_factory=dict)
    pictures: Mapping[Kind, str] = field(default_factory=dict)

    def read(self, kind: Kind, key: object, parse: Callable[[Mapping[str, bytes]], T]) -> T | None:
        """See `Cache.read`; `key` is anything that has canonical JSON."""
        return None if self.cache is None else self.cache.read(kind, self._key(kind, key), parse)

    def write(self, kind: Kind, key: object, files: Callable[[], Mapping[str, bytes]]) -> None:
        """See `Cache.write`; `files` is called where there is a cache."""
        if self.cache is not None:
            self.cache.write(kind, self._key(kind, key), files())

    def _key(self, kind: Kind, key: object) -> str:
        return content_hash({"context": dict(self.context), "pictures": self.pictures[kind], "key": key})
