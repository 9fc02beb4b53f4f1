"""A new folder that appears whole or not at all."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fl_core.base.errors import InputError


def check_new(out: Path, verb: str) -> None:
    """Raise `InputError` where something lies at `out` already, an empty folder aside; `verb` is what goes there."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{out} is there already; {verb} into a new folder with another --out.")


@contextmanager
def appearing(out: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `out` at the end; after an error nothing is left of it.

    A process that is killed leaves a folder whose name begins with `_`. Raises `InputError` where it cannot be written.
    """
    scratch = out.parent / f"_{out.name}-{secrets.token_hex(4)}"
    try:
        scratch.mkdir(parents=True)
        yield scratch
        scratch.replace(out)
    except OSError as error:
        raise InputError(f"Cannot write {out}: {error.strerror}; use another --out.") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
