"""Who may write to a results folder: one driver, on whichever machine.

On one machine a file lock decides, which the kernel releases when its holder dies. Across machines such locks may
be missing or local, so a driver also has an owner file with a number, `.owner-000001.json`, and touches it every
`BEAT` seconds. Who finds such a file watches it: a touch refuses him, `SILENCE` seconds without one let him create
the file of the next number, which only one can, and remove the old one. A driver that was only stalled finds its file
gone, and stops before it writes. Nobody's clock is compared with another's.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any

from filelock import FileLock, Timeout

from fl_core.base.errors import InputError
from orchestrator.io.files import clearly, persistently, unsealed
from orchestrator.results.there import OWNERS

log = logging.getLogger(__name__)

BEAT = 3.0
"""Seconds between two signs of life."""

SILENCE = 30.0
"""Seconds without a sign of life after which another machine may take a folder over."""

_OWNER = re.compile(r"\.owner-(\d{6,18})\.json")

_NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK})


@dataclass(frozen=True)
class Owner:
    """The driver that a results folder names as its own, and whether it still works on it.

    `since` is when it began, in UTC; `silent` how many seconds ago it gave its last sign of life, by this machine's
    clock.
    """

    host: str
    process: int | None
    since: datetime | None
    silent: float
    alive: bool

    @property
    def who(self) -> str:
        """`process N on HOST`."""
        return f"process {'?' if self.process is None else self.process} on {self.host}"


def owner_of(folder: Path) -> Owner | None:
    """The owner of a folder; None where the last one left in order, or there never was one. Writes and locks nothing.

    On this machine a driver is dead once its process is gone, on another one after `SILENCE` seconds without a sign.
    """
    number = _newest(folder)
    if not number:
        return None
    path = _owner_path(folder, number)
    try:
        silent = max(0.0, time.time() - path.stat().st_mtime)
    except FileNotFoundError:
        return None
    said = _said(path)
    machine, named = said.get("machine"), said.get("process")
    process = named if isinstance(named, int) and named > 0 else None
    gone = machine == _machine() and process is not None and not _runs(process)
    return Owner(
        host=str(machine.get("host")) if isinstance(machine, dict) else "?",
        process=process,
        since=_moment(said.get("since")),
        silent=silent,
        alive=silent < SILENCE and not gone,
    )


class Lease:
    """The right to write to a folder, from `acquire` to `release`, or until another machine takes it over."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = FileLock(folder / ".lock", fallback_to_soft=False)
        self._number = 0
        self._ended, self._lost = Event(), False

    def acquire(self) -> None:
        """Become the folder's owner.

        Raises `InputError` where another driver is; where one on another machine may have died, this waits for
        `SILENCE` seconds before it takes the folder over.
        """
        with clearly("write to", self.folder):
            locked = self._take_lock()
            try:
                self._number = self._take_over(locked)
            except BaseException:
                self._lock.release()
                raise
        Thread(target=self._beat, name="lease", daemon=True).start()

    def check(self) -> None:
        """Raise `InputError` if this driver does not own the folder any more."""
        if not self._lost:
            try:
                # Opening asks the server; a mere look at the name may be answered from a network client's cache.
                persistently(self._path(self._number), self._touchable)
                return
            except FileNotFoundError:
                self._lost = True
        owner = self._newest()
        now = f"now {self._who(owner)} writes there" if owner else "its owner file is gone"
        raise InputError(
            f"{self.folder} was taken from this run, which gave no sign of life for {SILENCE:.0f} s: {now}. "
            "This run stops; what it had finished until then is kept."
        )

    def release(self) -> None:
        """Give the folder back."""
        self._ended.set()
        with suppress(OSError):  # Who comes next then waits for a sign of life that never comes.
            self._path(self._number).unlink(missing_ok=True)
        self._lock.release()

    def _take_lock(self) -> bool:
        """Whether this process now holds the file lock; False on file systems without such locks."""
        try:
            persistently(self.folder, partial(self._lock.acquire, timeout=0))
        except Timeout as error:
            owner = self._newest()
            raise self._in_use(self._who(owner) if owner else "another gradsweep") from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            log.warning("%s: no file locks here (%s); the owner file alone decides", self.folder, error)
            return False
        return True

    def _take_over(self, locked: bool) -> int:
        while True:
            last = self._newest()
            # Here the lock would be held if the last owner still lived.
            if last and not (locked and self._read(last).get("machine") == _machine()):
                self._await_silence(last)
            if not self._create(last + 1):
                continue
            if self._newest() > last + 1:  # We were slow, and somebody is two ahead.
                self._path(last + 1).unlink(missing_ok=True)
                continue
            for number in _numbers(self.folder):
                if number <= last:
                    self._path(number).unlink(missing_ok=True)
            return last + 1

    def _await_silence(self, number: int) -> None:
        """Return when owner `number` has been silent for long enough, or has gone; refuse when it gives a sign."""
        who, first = self._who(number), self._sign(number)
        log.warning(
            "%s was last written to by %s; waiting up to %.0f s for a sign of life", self.folder, who, SILENCE
        )
        end = time.monotonic() + SILENCE
        while first is not None and time.monotonic() < end:
            time.sleep(BEAT / 4)
            now = self._sign(number)
            if now is None:
                return
            if now != first:
                raise self._in_use(who)

    def _create(self, number: int) -> bool:
        """Create the owner file `number`; False where somebody else did."""
        owner = {
            "machine": _machine(),
            "process": os.getpid(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        try:
            # Exclusive creation is what network file systems promise to let only one of two do.
            with self._path(number).open("xb", buffering=0) as file:
                file.write(json.dumps(owner).encode())
        except FileExistsError:
            return False
        except OSError:
            self._path(number).unlink(missing_ok=True)
            raise
        return True

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            try:
                self._touchable(touch=True)
            except FileNotFoundError:
                self._lost = not self._ended.is_set()
                return
            except OSError as error:
                log.warning("%s: %s; the next sign of life tries again", self.folder, error)

    def _touchable(self, *, touch: bool = False) -> None:
        """Open the owner file, and touch it if asked; raises `FileNotFoundError` where it is gone."""
        descriptor = os.open(self._path(self._number), os.O_WRONLY)
        try:
            if touch:
                os.utime(descriptor)
        finally:
            os.close(descriptor)

    def _sign(self, number: int) -> int | None:
        """What changes with every sign of life; None where the owner has gone."""
        try:
            descriptor = os.open(self._path(number), os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            return os.fstat(descriptor).st_mtime_ns
        finally:
            os.close(descriptor)

    def _path(self, number: int) -> Path:
        return _owner_path(self.folder, number)

    def _newest(self) -> int:
        return _newest(self.folder)

    def _read(self, number: int) -> dict[str, object]:
        return _said(self._path(number))

    def _who(self, number: int) -> str:
        owner = self._read(number)
        machine = owner.get("machine")
        host = machine.get("host") if isinstance(machine, dict) else "?"
        return f"process {owner.get('process', '?')} on {host} (since {owner.get('since', '?')})"

    def _in_use(self, who: str) -> InputError:
        return InputError(
            f"{self.folder} is in use by another gradsweep: {who}; wait for it or use another --out."
        )


def _machine() -> dict[str, str]:
    """What tells machines, and one machine before and after a restart, apart."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return {"host": socket.gethostname(), "boot": boot.read_text().strip() if boot.is_file() else ""}


def _owner_path(folder: Path, number: int) -> Path:
    return folder / f".owner-{number:06d}.json"


def _numbers(folder: Path) -> list[int]:
    found = (_OWNER.fullmatch(path.name) for path in folder.glob(OWNERS))
    return sorted(int(match[1]) for match in found if match)


def _newest(folder: Path) -> int:
    """The number of the owner file in force; 0 where there is none."""
    return max(_numbers(folder), default=0)


def _said(path: Path) -> dict[str, Any]:
    """What an owner says of itself; nothing where its file is gone, not written yet, or damaged."""
    try:
        return unsealed(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}


def _runs(process: int) -> bool:
    """Whether there is a process of this number on this machine."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True  # Somebody else's, or none that can be asked for.
    return True


def _moment(said: object) -> datetime | None:
    """A time in UTC from its ISO text; None for anything else."""
    try:
        found = datetime.fromisoformat(str(said))
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
