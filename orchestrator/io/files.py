"""File writes that are whole or not there, with retries of transient errors."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from fl_core.base.errors import InputError, first_line
from orchestrator.io.retries import patiently

T = TypeVar("T")

TRANSIENT = frozenset(
    {
        *(errno.EIO, errno.ESTALE, errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.ETIMEDOUT),
        *(errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET, errno.ECONNRESET),
        *(errno.EHOSTDOWN, errno.EHOSTUNREACH),
    }
)
"""What passes by itself, mostly on network file systems. A full disk or a missing right does not."""

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


CHECKSUM = "checksum"
"""The key, in JSON and in the metadata of other files, of a checksum over the rest of the file."""

RESTORE = "restore it, or use another --out"


class Damaged(InputError):
    """A file that does not hold what was written to it."""

    @classmethod
    def of(cls, path: Path, reason: BaseException | str, remedy: str) -> Damaged:
        """The error that names the file, what is wrong with it, and what helps."""
        what = reason if isinstance(reason, str) else first_line(reason)
        return cls(f"{path} is damaged ({what.rstrip('.')}); {remedy}.")


def always() -> None:
    """Permission to write that is never refused."""


def persistently(place: Path, action: Callable[[], T]) -> T:
    """`action()`, tried again with a log line while it fails for a `TRANSIENT` reason; other errors pass at once."""
    return patiently(place, action, lambda error: isinstance(error, OSError) and error.errno in TRANSIENT)


@contextmanager
def clearly(verb: str, place: Path) -> Iterator[None]:
    """An `OSError` of the block as an `InputError` that says what could not be done where, and what helps."""
    try:
        yield
    except OSError as error:
        remedy = "free some space" if error.errno in FULL else "mend that"
        raise InputError(
            f"Cannot {verb} {place}: {error.strerror or error}; {remedy} and run the same command again to resume."
        ) from error


def read_bytes(path: Path) -> bytes:
    """The file's content; raises `FileNotFoundError` where there is none, `InputError` where it cannot be read."""
    try:
        return persistently(path, path.read_bytes)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror or error}.") from error


def sealed(content: Mapping[str, object]) -> dict[str, object]:
    """A JSON object with a checksum of itself."""
    return {**content, CHECKSUM: _checksum(content)}


def sealed_text(content: Mapping[str, object]) -> bytes:
    """What `unsealed` reads: plain data as the text of a JSON object with a checksum of itself."""
    return json.dumps(sealed(content), indent=1).encode()


def unsealed(text: bytes) -> dict[str, Any]:
    """The JSON object in `text` without its checksum; raises `ValueError` where it is none, or the checksum differs.

    An object without a checksum, as earlier versions wrote it, is taken as it is.
    """
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(content, dict):
        raise ValueError("no JSON object")
    found = content.pop(CHECKSUM, None)
    if found is not None and found != _checksum(content):
        raise ValueError("its checksum differs")
    return content


def typed(kind: type[T], content: object) -> T:
    """Plain JSON data as a `kind`; raises `ValueError` that names the key where it is something else."""
    try:
        found: T = _adapter(kind).validate_json(json.dumps(content), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{place}: {first['msg']}" if place else first["msg"]) from error
    return found


def read_json(kind: type[T], path: Path, *, version: int | None = None, remedy: str = RESTORE) -> T:
    """The JSON object in a file that gradsweep wrote, as a `kind`, of format `version` where one is given.

    Raises `Damaged`, with the `remedy`, where it holds something else than was written, `InputError` where it is of
    another format, `FileNotFoundError` where it is missing.
    """
    try:
        content = unsealed(read_bytes(path))
        if version is not None and content.get("format") != version:
            raise InputError(
                f"{path} has format {content.get('format')}, this gradsweep writes and reads {version}; use another "
                "--out, or the gradsweep that wrote it."
            )
        return typed(kind, content)
    except InputError:
        raise
    except ValueError as error:
        raise Damaged.of(path, error, remedy) from error


def write_json(path: Path, content: Mapping[str, object], *, allowed: Callable[[], None] = always) -> None:
    """Write a JSON object with a checksum of itself; see `write_atomically`."""
    write_atomically(path, sealed_text(content), allowed=allowed)


def _checksum(content: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:20]


_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)


def write_atomically(path: Path, content: bytes, *, allowed: Callable[[], None] = always) -> None:
    """Write under a name that readers ignore (`_` in front), sync, then rename: the old file or the new one is there.

    `allowed` is called at the start and right before the rename, and raises where this process may no longer write.
    Raises `InputError` where the disk is full or does not let itself be written; nothing is left of the attempt.
    """
    with clearly("write", path):
        persistently(path, partial(_replace, path, content, allowed))


def append_line(path: Path, line: bytes, *, sync: bool = True, allowed: Callable[[], None] = always) -> None:
    """Add a line to a file, and sync it if asked; where that fails, the file is as it was.

    Errors and `allowed` as in `write_atomically`.
    """
    with clearly("write", path):
        persistently(path, partial(_append, path, line, sync, allowed))


def _replace(path: Path, content: bytes, allowed: Callable[[], None]) -> None:
    allowed()
    scratch = path.with_name(f"_{path.name}")
    try:
        with scratch.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        allowed()
        scratch.replace(path)
    except BaseException:
        with suppress(OSError):
            scratch.unlink(missing_ok=True)
        raise
    _sync_names(path.parent)


def _append(path: Path, line: bytes, sync: bool, allowed: Callable[[], None]) -> None:
    allowed()
    with path.open("ab", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        try:
            left = memoryview(line)
            while left:
                left = left[file.write(left) :]
            if sync:
                os.fsync(file.fileno())
        except BaseException:
            # Half a line would swallow the next one.
            with suppress(OSError):
                file.truncate(end)
            raise


def _sync_names(folder: Path) -> None:
    """Make a rename outlive a power cut, where the file system can sync a folder."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
