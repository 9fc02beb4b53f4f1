"""Stopping on a signal: SIGTERM and SIGUSR1 end a sweep so that the same command resumes it later."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from threading import Thread
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")

EXIT_CODE = 75
"""What the process ends with when it was told to stop: `EX_TEMPFAIL`, run it again."""

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)

PATIENCE = 15.0
"""Seconds after which a stop that hangs (in a file system, in a library) ends the process all the same."""


class Stopped(BaseException):
    """The process was told to stop. No `Exception`, so that nothing takes it for a failed trial."""


class Stop:
    """Whether this process was told to stop.

    The signal sets a flag, which `check` turns into `Stopped` at the next good moment. Only inside a `window`
    is `Stopped` raised from wherever the program happens to be: what is outside, every write of a result for
    one, is never cut in two. A second signal, or `PATIENCE` seconds, end the process at once: nothing that was
    recorded depends on a tidy end.
    """

    def __init__(self) -> None:
        self._told: str | None = None
        self._open = self._listening = False

    @contextmanager
    def listening(self) -> Iterator[Stop]:
        """React to `SIGNALS` inside the block, which must be run in the main thread."""
        before = {number: signal.getsignal(number) for number in SIGNALS}
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        old_writer = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        watch = Thread(target=_watch, args=(reader,), name="stop", daemon=True)
        watch.start()
        self._listening = True
        self.listen()
        try:
            yield self
        finally:
            self._listening = False
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(old_writer)
            os.close(writer)
            watch.join()
            os.close(reader)

    def listen(self) -> None:
        """Take the signals back from a library that put a handler of its own; nothing outside of `listening`."""
        if self._listening:
            for number in SIGNALS:
                signal.signal(number, self._tell)

    def check(self) -> None:
        """Raise `Stopped` if the process was told to stop."""
        if self._told is not None:
            raise Stopped(self._told)

    @contextmanager
    def window(self) -> Iterator[None]:
        """Work that may be broken off anywhere, because it changes nothing that outlives it."""
        self.check()
        self._open = True
        try:
            yield
            # What was raised inside a destructor or a callback of C code is lost there.
            self.check()
        finally:
            self._open = False

    def breakable(self, function: Callable[..., T]) -> Callable[..., T]:
        """`function`, run inside a window."""
        return partial(self._within, function)

    @contextmanager
    def starting(self) -> Iterator[None]:
        """The start of a library that answers SIGTERM by `SystemExit`: counts as told to stop."""
        try:
            yield
        except SystemExit as ended:
            if not self._listening:
                raise
            self._told = self._told or signal.SIGTERM.name
            raise Stopped(self._told) from ended
        finally:
            self.listen()

    def _within(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        with self.window():
            return function(*args, **kwargs)

    def _tell(self, number: int, _: FrameType | None) -> None:
        self._told = signal.Signals(number).name
        if self._open:
            raise Stopped(self._told)


def farewell(reason: str) -> str:
    """The line that a person reads when a run was stopped."""
    return f"stopped by {reason}; run the same command again to resume."


def _watch(reader: int) -> None:
    """End the process at the second signal, or when the first was not followed in time.

    Python's handlers wait for the main thread to come back from C code; the numbers in the pipe do not.
    """
    told: list[int] = []
    deadline = float("inf")
    while True:
        left = None if not told else max(0.0, deadline - time.monotonic())
        ready, _, _ = select.select([reader], [], [], left)
        if ready:
            numbers = os.read(reader, 64)
            if not numbers:
                return
            told += [number for number in numbers if number in SIGNALS]
        if told and deadline == float("inf"):
            deadline = time.monotonic() + PATIENCE
        if len(told) > 1 or time.monotonic() >= deadline:
            line = farewell(f"{signal.Signals(told[-1]).name}, at once")
            os.write(2, f"gradsweep: {line}\n".encode())
            os._exit(EXIT_CODE)
