"""Where jobs run: in this process, or on Ray. A job is a function and its arguments; its result comes back by key."""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import ray
from ray.exceptions import RayActorError, RayTaskError
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_exponential

from fl_core.errors import InputError


@dataclass(frozen=True)
class Done:
    """A finished job: its key, and its result or the exception that ended it."""

    key: str
    result: Any = None
    error: BaseException | None = None


class Executor(Protocol):
    """Runs jobs and hands back their results in the order in which they finish."""

    @property
    def capacity(self) -> int:
        """How many jobs can run at the same time."""

    @property
    def gpu_share(self) -> float:
        """The share of a GPU that each job holds, where it computes on one."""

    @property
    def in_flight(self) -> int:
        """How many jobs have been submitted and not yet returned."""

    def share(self, value: object) -> Any:
        """A handle on a large value; passed as a job's argument, it arrives as the value."""

    def submit(self, key: str, function: Callable[..., Any], *arguments: Any) -> None:
        """Queue `function(*arguments)` under `key`."""

    def next_done(self, timeout: float) -> Done | None:
        """The next finished job, or None after `timeout` seconds."""

    def close(self) -> None:
        """Give back what the executor holds."""


class SerialExecutor:
    """One job at a time, in this process, when its result is asked for."""

    capacity = 1
    gpu_share = 1.0

    def __init__(self) -> None:
        self._queue: deque[tuple[str, Callable[..., Any], tuple[Any, ...]]] = deque()

    @property
    def in_flight(self) -> int:
        """See `Executor.in_flight`."""
        return len(self._queue)

    def share(self, value: object) -> Any:
        """See `Executor.share`."""
        return value

    def submit(self, key: str, function: Callable[..., Any], *arguments: Any) -> None:
        """See `Executor.submit`."""
        self._queue.append((key, function, arguments))

    def next_done(self, timeout: float) -> Done | None:  # noqa: ARG002 - the job itself is the wait
        """See `Executor.next_done`."""
        if not self._queue:
            return None
        key, function, arguments = self._queue.popleft()
        try:
            return Done(key, function(*arguments))
        except Exception as error:
            return Done(key, error=error)

    def close(self) -> None:
        """See `Executor.close`."""


class _Worker:
    """Lives in a Ray actor; imports stay warm between jobs."""

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)


class RayExecutor:
    """A pool of actors with one CPU each (and a share of a GPU where the cluster has one)."""

    def __init__(self, address: str, *, workers: int | None, threads: int) -> None:
        """Connect to the cluster at `address`, or start Ray on this machine for `local`."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        named = os.environ.get("RAY_ADDRESS", address) if address == "auto" else address
        try:
            if ":" in named:
                _reach(named)
            _connect(named, cpus=(workers or os.cpu_count() or 1) * threads)
        except (OSError, ValueError, RuntimeError) as error:
            line = str(error).splitlines()[0]
            raise InputError(f"No Ray cluster answers at {named!r} ({line}); try --address local.") from error
        resources = ray.cluster_resources()
        fitting = max(1, int(resources.get("CPU", 1)) // threads)
        self.capacity = min(workers or fitting, fitting)
        self.gpu_share = min(1.0, resources.get("GPU", 0.0) / self.capacity)
        actor = ray.remote(num_cpus=threads, num_gpus=self.gpu_share, max_restarts=-1, max_task_retries=2)(
            _Worker
        )
        self._idle = [actor.remote() for _ in range(self.capacity)]
        self._running: dict[ray.ObjectRef, tuple[str, Any]] = {}
        self._queue: deque[tuple[str, Callable[..., Any], tuple[Any, ...]]] = deque()

    @property
    def in_flight(self) -> int:
        """See `Executor.in_flight`."""
        return len(self._running) + len(self._queue)

    def share(self, value: object) -> Any:
        """See `Executor.share`: the value goes into Ray's object store once."""
        return ray.put(value)

    def submit(self, key: str, function: Callable[..., Any], *arguments: Any) -> None:
        """See `Executor.submit`."""
        self._queue.append((key, function, arguments))
        self._start()

    def next_done(self, timeout: float) -> Done | None:
        """See `Executor.next_done`."""
        if not self._running:
            time.sleep(0 if self._queue else timeout)
            return None
        ready, _ = ray.wait(list(self._running), num_returns=1, timeout=timeout)
        if not ready:
            return None
        key, actor = self._running.pop(ready[0])
        self._idle.append(actor)
        self._start()
        try:
            return Done(key, ray.get(ready[0]))
        except RayTaskError as error:
            return Done(key, error=error.cause if isinstance(error.cause, Exception) else error)
        except RayActorError as error:
            return Done(key, error=RuntimeError(f"the worker process died: {str(error).splitlines()[0]}"))

    def close(self) -> None:
        """End the actors and, for a local Ray, Ray itself."""
        ray.shutdown()

    def _start(self) -> None:
        while self._queue and self._idle:
            key, function, arguments = self._queue.popleft()
            actor = self._idle.pop(0)
            self._running[actor.run.remote(function, *arguments)] = (key, actor)


@retry(
    retry=retry_if_exception_type((ConnectionError, TimeoutError)),
    stop=stop_after_attempt(3),
    wait=wait_exponential(1.0, max=10.0),
    reraise=True,
)
def _connect(address: str, *, cpus: int) -> None:
    """A busy machine may start Ray's processes too slowly for each other; a second try then works."""
    if address == "local":
        # Named, so that a RAY_ADDRESS in the environment does not turn it into a cluster elsewhere.
        ray.init(
            address="local",
            num_cpus=cpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="error",
        )
    else:
        ray.init(address=address, log_to_driver=False, logging_level="error")


@retry(
    retry=retry_if_exception_type(OSError),
    stop=stop_after_attempt(3),
    wait=wait_exponential(0.5, max=5.0),
    reraise=True,
)
def _reach(address: str) -> None:
    """Open and close a connection: Ray itself would try for minutes where nobody listens."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        raise ValueError("the address must be HOST:PORT")
    socket.create_connection((host, int(port)), timeout=5.0).close()


def make_executor(address: str, *, workers: int | None, threads: int) -> Executor:
    """`serial` runs in this process; `local` starts Ray here; anything else is a Ray cluster's address."""
    if address == "serial":
        return SerialExecutor()
    return RayExecutor(address, workers=workers, threads=threads)
