"""Checks that Ray's processes are alive before each call: a call without them would end this process."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable

from fl_core.base.errors import natural

PATIENCE_SECONDS = 120.0
"""How long a cluster may have no node that fits, and how long one that was lost is waited for."""
SECONDS = 5.0
"""How long one connection may take."""
TRIES = 3


class RayLost(RuntimeError):
    """Ray is gone: its control service or the raylet of this node. What ran there is lost, finished trials are not.

    `cluster` is the address at which it may come back, None for a Ray that this process started; `fresh` is how many
    trials had been finished with it.
    """

    def __init__(self, text: str, *, cluster: str | None) -> None:
        super().__init__(text)
        self.cluster, self.fresh = cluster, 0


class Lifelines:
    """Open connections to Ray's processes, by HOST:PORT; the kernel closes each when its process dies.

    `cluster` as in `RayLost`.
    """

    def __init__(self, addresses: Iterable[str], *, cluster: str | None) -> None:
        self._cluster = cluster
        self._open = {address: _patiently_connected(address) for address in addresses}

    def look(self) -> None:
        """Raise `RayLost` where a process is gone; takes microseconds while all are there."""
        for address, connection in self._open.items():
            if _closed(connection):
                self._renew(address)  # The other end may only have lost patience with our silence.

    def renew(self) -> None:
        """The same with new connections, which also notice a machine that is gone without a word."""
        for address in self._open:
            self._renew(address)

    def close(self) -> None:
        """Give the connections back."""
        for connection in self._open.values():
            connection.close()

    def _renew(self, address: str) -> None:
        try:
            fresh = _patiently_connected(address)
        except OSError as error:
            raise RayLost(
                f"Ray's process at {address} is gone ({error.strerror or error})", cluster=self._cluster
            ) from error
        self._open[address].close()
        self._open[address] = fresh


def connected(address: str) -> socket.socket:
    """A connection to HOST:PORT; raises `ValueError` for another address, `OSError` where nobody answers."""
    host, _, digits = address.removeprefix("ray://").rpartition(":")
    port = natural(digits)
    if not host or port is None or not 0 < port < 2**16:
        raise ValueError("must be HOST:PORT")
    return socket.create_connection((host.strip("[]"), port), timeout=SECONDS)


def await_return(lost: RayLost) -> None:
    """Return once somebody answers at the lost cluster's address; raise `lost` after `PATIENCE_SECONDS`."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while lost.cluster is not None:
        try:
            connected(lost.cluster).close()
            return
        except OSError:
            if time.monotonic() >= deadline:
                raise lost from None
            time.sleep(1.0)


def _patiently_connected(address: str) -> socket.socket:
    """Who is busy answers late; who is gone refuses at once."""
    for _ in range(TRIES - 1):
        try:
            return connected(address)
        except TimeoutError:
            continue
    return connected(address)


def _closed(connection: socket.socket) -> bool:
    """Whether the other end has closed it; what it said is thrown away."""
    connection.setblocking(False)
    try:
        while connection.recv(4096):
            pass
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
