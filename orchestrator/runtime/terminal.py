"""Standard output and error: what cannot be printed never ends a command that still has work to do."""

from __future__ import annotations

import errno
import io
import sys
from typing import Any

from rich.console import Console

NARROWEST = 40
"""Columns below which a terminal is taken to have 80: COLUMNS=0 says nothing of its width."""


def console(*, stderr: bool = False) -> Console:
    """A console that prints text as it is: names and paths of people may hold what rich takes for markup."""
    made = Console(stderr=stderr, markup=False, highlight=False, emoji=False)
    if made.width < NARROWEST:
        made.width = 80
    return made


class Outlet(io.FileIO):
    """A file descriptor that is written to for as long as that works; what it does not take is dropped."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._error: OSError | None = None

    def write(self, content: Any) -> int:
        """See `io.FileIO.write`."""
        if self._error is None:
            try:
                return super().write(content)
            except OSError as error:
                self._error = error
        return len(content)

    @property
    def refusal(self) -> str | None:
        """Why it takes no more; None while it does, and where nobody reads any more, as behind `| head`."""
        if self._error is None or self._error.errno == errno.EPIPE:
            return None
        return self._error.strerror


def outlet(name: str) -> Outlet | None:
    """Put an `Outlet` below `sys.stdout` or `sys.stderr`, by name; None where this process was started without it.

    A character that the stream's encoding lacks is written as its escape.
    """
    stream = getattr(sys, name)
    if stream is None:
        return None
    made = Outlet(stream.fileno())
    written = io.TextIOWrapper(
        io.BufferedWriter(made),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=made.isatty() or name == "stderr",
    )
    setattr(sys, name, written)
    return made
