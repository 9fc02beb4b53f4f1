"""Where jobs run: in this process, or on Ray. A job is a function and its arguments; its result comes back by key."""

from __future__ import annotations

import logging
import math
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

import ray
from ray.exceptions import (
    GetTimeoutError,
    LocalRayletDiedError,
    NodeDiedError,
    ObjectFetchTimedOutError,
    ObjectFreedError,
    ObjectLostError,
    ObjectStoreFullError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RaySystemError,
    RayTaskError,
    ReferenceCountingAssertionError,
    RpcError,
    WorkerCrashedError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fl_core.base.device import prepare_process
from fl_core.base.errors import InputError
from orchestrator.execute.address import named_address
from orchestrator.execute.lifelines import PATIENCE_SECONDS, Lifelines, connected
from orchestrator.execute.ray_folder import scratch_folder
from orchestrator.io.retries import TRIES, patiently

DEATHS = 3
"""How many processes may die under one job, how many may fail to start on one node in a row, and how often the object
store may lose what one job needs."""
LOOK_SECONDS = 2.0
"""How often the pool looks at the cluster's nodes."""

T = TypeVar("T")

Preload = tuple[Callable[..., Any], ...]
"""Functions whose modules workers import while they start."""

log = logging.getLogger(__name__)


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


class Unreachable(InputError):
    """No Ray cluster answers."""


class WorkerLost(RuntimeError):
    """The process that ran a job has died under it, again and again."""


class _Worker:
    """Lives in a Ray actor; imports stay warm between jobs."""

    def __init__(self, threads: int, preload: Preload) -> None:  # noqa: ARG002 - its arrival imports its modules
        # Ray sets it from the actor's CPUs, but not where the node's environment names another number.
        os.environ["OMP_NUM_THREADS"] = str(threads)
        prepare_process(threads)

    def ready(self) -> None:
        """Answered once the process runs."""

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)


@dataclass(eq=False)
class _Job:
    """A job, how many processes have died under it while their node lived, how often the object store failed it."""

    key: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    deaths: int = 0
    lost: int = 0


@dataclass(eq=False, frozen=True)
class _Member:
    """An actor of the pool, and the id of the node that it is bound to."""

    actor: Any
    node: str


class RayExecutor:
    """Actors on every node that has room for one: a trial's CPUs, and its share of a GPU where it takes one.

    The pool follows the cluster. Nodes that join get actors within seconds; what ran on a node that leaves, or in a
    process that dies, runs again elsewhere. Ray restarts nothing by itself: every actor is bound to a node, so that
    none waits for one that is gone. A job under which `DEATHS` processes have died on living nodes ends with
    `WorkerLost`, one whose process Ray's memory monitor has ended with `MemoryError`.

    An object store that is full or slow for a moment is asked again, with a line in the log. What it has lost is
    computed again by running the job again, `DEATHS` times at most. What a job itself raises is its result.

    Where the control service or this node's raylet is gone, every method but `close` raises `RayLost`: nothing that
    this pool holds can be had any more.

    Shared values lie on the driver's node: they last as long as the driver.
    """

    def __init__(
        self,
        address: str,
        *,
        workers: int | None,
        threads: int,
        gpus: float = 0.0,
        preload: Preload = (),
    ) -> None:
        """Connect to the cluster at `address`, or start Ray on this machine for `local`.

        At most `workers` actors (None: as many as fit), each with `threads` CPUs and `gpus` GPUs: a whole number, or
        a share of one. Actors import the modules of `preload` while they start, not in their first job. Raises
        `Unreachable` where no cluster answers.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        named = check_address(address)
        try:
            _connect(named, cpus=workers * threads if workers else max(threads, _usable_cpus()))
        except (OSError, ValueError, RuntimeError) as error:
            if named == "local":
                raise InputError(
                    f"Ray does not start here ({_one_line(error)}); try --address serial."
                ) from error
            raise Unreachable(
                f"No Ray cluster answers at {named!r} ({_one_line(error)}); try --address local."
            ) from error
        self._threads, self.gpu_share, self._preload = threads, gpus, preload
        self._most = math.inf if workers is None else workers
        self._patience = 0.0 if named == "local" else PATIENCE_SECONDS
        self._members: list[_Member] = []
        self._starting: dict[ray.ObjectRef, _Member] = {}
        self._idle: deque[_Member] = deque()
        self._running: dict[ray.ObjectRef, tuple[_Job, _Member]] = {}
        self._queue: deque[_Job] = deque()
        self._finished: deque[Done] = deque()
        self._failed_starts: Counter[str] = Counter()
        self._staffed_at = time.monotonic()
        try:
            self._lifelines = _lifelines(named)
            self._follow_cluster()
        except BaseException:
            ray.shutdown()
            raise

    @property
    def capacity(self) -> int:
        """See `Executor.capacity`: the actors now, those that are still starting among them."""
        return max(1, len(self._members))

    @property
    def in_flight(self) -> int:
        """See `Executor.in_flight`."""
        return len(self._running) + len(self._queue) + len(self._finished)

    def share(self, value: object) -> Any:
        """See `Executor.share`: the value goes into Ray's object store once; `InputError` where it stays full."""
        self._lifelines.look()
        return _into_store("a shared value", lambda: ray.put(value))

    def submit(self, key: str, function: Callable[..., Any], *arguments: Any) -> None:
        """See `Executor.submit`."""
        self._queue.append(_Job(key, function, arguments))
        self._start()

    def next_done(self, timeout: float) -> Done | None:
        """See `Executor.next_done`; raises `InputError` after `PATIENCE_SECONDS` without any node that fits."""
        deadline = time.monotonic() + timeout
        while not self._finished:
            if time.monotonic() - self._looked_at >= LOOK_SECONDS:
                self._follow_cluster()
            left = max(0.0, deadline - time.monotonic())
            self._settle_ready(min(left, LOOK_SECONDS))
            self._start()
            if left == 0.0:
                break
        return self._finished.popleft() if self._finished else None

    def close(self) -> None:
        """End the actors and, for a local Ray, Ray itself."""
        self._lifelines.close()
        ray.shutdown()

    def _start(self) -> None:
        while self._queue and self._idle:
            self._lifelines.look()
            job, member = self._queue.popleft(), self._idle.popleft()
            # Arguments that are large go through the object store too.
            submit = partial(member.actor.run.remote, job.function, *job.arguments)
            self._running[_into_store(f"job {job.key}", submit)] = (job, member)

    def _settle_ready(self, timeout: float) -> None:
        """Wait for anything to happen, then take all that has: actors get their next jobs together."""
        waiting = [*self._running, *self._starting]
        self._lifelines.look()
        if not waiting:
            time.sleep(timeout)
        elif ray.wait(waiting, timeout=timeout)[0]:
            for ref in ray.wait(waiting, num_returns=len(waiting), timeout=0)[0]:
                self._lifelines.look()
                # A loss that was settled before this one may have taken it along.
                if ref in self._starting:
                    self._settle_start(ref)
                elif ref in self._running:
                    self._settle_job(ref)

    def _settle_start(self, ref: ray.ObjectRef) -> None:
        member = self._starting.pop(ref)
        try:
            ray.get(ref)
        except RayError as error:
            self._drop(member)
            # Memory that is short now may not be so later.
            self._failed_starts[member.node] += not isinstance(error, OutOfMemoryError)
            log.warning("A worker did not start on node %s: %s", member.node[:8], _one_line(error))
        else:
            self._failed_starts.pop(member.node, None)
            self._idle.append(member)

    def _settle_job(self, ref: ray.ObjectRef) -> None:
        job, member = self._running.pop(ref)
        try:
            done = Done(job.key, patiently(f"the result of job {job.key}", lambda: ray.get(ref), _passes))
        except OutOfMemoryError as error:
            self._drop(member)
            self._finished.append(Done(job.key, error=MemoryError(_one_line(error))))
            return
        except RayError as error:
            self._lifelines.look()
            if _process_lost(error):
                self._drop(member)
                self._again(job, error, at_fault=member.node in _alive_nodes())
                return
            cause = _cause(error)
            if _store_failed(cause) and job.lost < DEATHS - 1:
                job.lost += 1
                log.warning("Job %s runs again: %s", job.key, _one_line(cause))
                self._idle.append(member)
                self._queue.appendleft(job)
                return
            done = Done(job.key, error=cause)
        self._idle.append(member)
        self._finished.append(done)

    def _again(self, job: _Job, reason: Exception | str, *, at_fault: bool) -> None:
        """Put a job whose process is lost back to the front, unless too many have died under it."""
        job.deaths += at_fault
        if job.deaths >= DEATHS:
            text = f"{job.deaths} worker processes died under it, the last: {_one_line(reason)}"
            self._finished.append(Done(job.key, error=WorkerLost(text)))
            return
        log.warning("Job %s lost its worker and runs again: %s", job.key, _one_line(reason))
        self._queue.appendleft(job)

    def _drop(self, member: _Member) -> None:
        self._members.remove(member)
        ray.kill(member.actor)
        # What it was is replaced at the next look at the cluster, which is due now.
        self._looked_at = -math.inf

    def _follow_cluster(self) -> None:
        """Give up the actors of nodes that have left, and start actors where there is room."""
        self._lifelines.renew()
        nodes = _alive_nodes()
        for member in [member for member in self._members if member.node not in nodes]:
            self._leave(member)
        for node, resources in nodes.items():
            if self._failed_starts[node] >= DEATHS:
                continue
            there = sum(member.node == node for member in self._members)
            room = slots(resources, threads=self._threads, gpus=self.gpu_share) - there
            for _ in range(int(min(room, self._most - len(self._members)))):
                self._add(node)
        self._looked_at = time.monotonic()
        if self._members:
            self._staffed_at = self._looked_at
        elif self._looked_at - self._staffed_at >= self._patience:
            raise InputError(self._nobody(nodes))

    def _leave(self, member: _Member) -> None:
        """The member's node is gone, and with it what it was doing."""
        log.warning("Node %s has left the cluster.", member.node[:8])
        self._members.remove(member)
        if member in self._idle:
            self._idle.remove(member)
        self._starting = {ref: other for ref, other in self._starting.items() if other is not member}
        for ref, (job, other) in list(self._running.items()):
            if other is member:
                del self._running[ref]
                self._again(job, "its node has left the cluster", at_fault=False)

    def _add(self, node: str) -> None:
        worker = ray.remote(num_cpus=self._threads, num_gpus=self.gpu_share)(_Worker)
        bound = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
        member = _Member(worker.options(scheduling_strategy=bound).remote(self._threads, self._preload), node)
        self._members.append(member)
        self._starting[member.actor.ready.remote()] = member

    def _nobody(self, nodes: Mapping[str, object]) -> str:
        """Why there is nobody to do the work."""
        failing = [node for node in nodes if self._failed_starts[node] >= DEATHS]
        if failing:
            return (
                f"No worker starts on any of {len(failing)} nodes of the Ray cluster: see the warnings above."
            )
        wanted = f"{self._threads} CPUs" + (f" and {self.gpu_share:g} GPUs" if self.gpu_share else "")
        return (
            f"No node of the Ray cluster has the {wanted} that a trial takes (execution.threads, "
            "execution.gpus_per_trial); ask for less, or add a node and run this again."
        )


def slots(resources: Mapping[str, float], *, threads: int, gpus: float) -> int:
    """How many trials of `threads` CPUs and `gpus` GPUs fit on a node of these resources.

    Shares of a GPU do not add up over GPUs: three trials of 0.4 GPUs need two.
    """
    fitting = int(resources.get("CPU", 0.0) // threads)
    if not gpus:
        return fitting
    present = resources.get("GPU", 0.0)
    # Ray counts in ten-thousandths, so 0.3333 stands for a third.
    on_gpus = int(present) * int(1.0 / gpus + 1e-6) if gpus < 1 else int(present // gpus)
    return min(fitting, on_gpus)


def _lifelines(named: str) -> Lifelines:
    """Those of the Ray that this process is connected to: control service and own raylet, or Ray Client's server."""
    if named.startswith("ray://"):
        return Lifelines([named], cluster=named)
    context = ray.get_runtime_context()
    mine = next(node for node in ray.nodes() if node["NodeID"] == context.get_node_id())
    raylet = f"{mine['NodeManagerAddress']}:{mine['NodeManagerPort']}"
    return Lifelines([context.gcs_address, raylet], cluster=None if named == "local" else context.gcs_address)


def _alive_nodes() -> dict[str, dict[str, float]]:
    """The resources of every node that the cluster holds for alive, by its id."""
    return {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}


def local_workers(address: str, *, workers: int | None, threads: int) -> int | None:
    """How many workers `make_executor` would start for `local` on the CPUs of this machine; None for `serial`."""
    if address == "serial":
        return None
    return workers or max(1, _usable_cpus() // threads)


def _usable_cpus() -> int:
    """The CPUs that this process may use, which are fewer than the machine's under Slurm."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _passes(error: BaseException) -> bool:
    """Whether a second try of the same call may find the object store less full, or faster."""
    passing = (ObjectStoreFullError, ObjectFetchTimedOutError, GetTimeoutError)
    return isinstance(error, passing) and not isinstance(error, RayTaskError)


def _store_failed(error: BaseException) -> bool:
    """Whether the object store, here or under a worker, is why a job has no result: running it again may give one."""
    if isinstance(error, ObjectFreedError | ReferenceCountingAssertionError):
        return False  # A mistake in a program, ours or Ray's.
    return isinstance(error, ObjectLostError | ObjectStoreFullError | GetTimeoutError)


def _process_lost(error: BaseException) -> bool:
    """Whether this is Ray's word that the process which ran a job is gone, or out of reach."""
    if isinstance(error, RaySystemError):
        # With an exception inside, a result that cannot be read back: it never will be.
        return not isinstance(error.client_exc, Exception)
    gone = (RayActorError, WorkerCrashedError, NodeDiedError, LocalRayletDiedError, RpcError)
    return isinstance(error, gone) and not isinstance(error, RayTaskError)


def _cause(error: RayError) -> Exception:
    """What a job raised, where it is that; else Ray's own error."""
    cause = error.cause if isinstance(error, RayTaskError) else None
    return cause if isinstance(cause, Exception) else error


def _into_store(what: str, put: Callable[[], T]) -> T:
    """`put()`, patiently; raises `InputError` where the object store has no room in the end."""
    try:
        return patiently(what, put, _passes)
    except ObjectStoreFullError as error:
        raise InputError(
            f"Ray's object store stayed full for {TRIES} tries ({what}); give it more memory (in a container "
            "--shm-size, for a cluster ray start --object-store-memory) and run the same command again to resume."
        ) from error


def _one_line(reason: object) -> str:
    """Ray's messages are paragraphs with the cause somewhere in the middle."""
    return " ".join(str(reason).split())[:400] or type(reason).__name__


def _connect(address: str, *, cpus: int) -> None:
    """A busy machine may start Ray's processes too slowly for each other; a second try then works."""

    def connect() -> None:
        if address == "local":
            _start_local(cpus)
        else:
            ray.init(address=address, log_to_driver=False, logging_level="error")

    def passes(error: BaseException) -> bool:
        return isinstance(error, ConnectionError | TimeoutError)

    patiently(f"Ray at {address}", connect, passes, tries=3, wait=1.0)


def _reach(address: str) -> None:
    """Open and close a connection: Ray itself would try for minutes where nobody listens."""

    def passes(error: BaseException) -> bool:
        return isinstance(error, OSError)

    patiently(f"Ray at {address}", lambda: connected(address).close(), passes, tries=3)


def check_address(address: str) -> str:
    """`named_address`, where somebody listens there.

    Raises `InputError` for what is none, `Unreachable` where nobody listens.
    """
    named = named_address(address)
    if ":" not in named:
        return named
    try:
        _reach(named)
    except ValueError as error:
        raise InputError(f"--address {named!r}: {error}, such as 127.0.0.1:6379.") from error
    except OSError as error:
        raise Unreachable(
            f"No Ray cluster answers at {named!r} ({_one_line(error)}); try --address local."
        ) from error
    return named


def _start_local(cpus: int) -> None:
    try:
        ray.init(
            # Named, so that a RAY_ADDRESS in the environment does not turn it into a cluster elsewhere.
            address="local",
            num_cpus=cpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="error",
            _temp_dir=scratch_folder(os.environ),
        )
    except Exception as error:
        ray.shutdown()  # What has started of it.
        if type(error) is Exception:
            # Ray has no more telling type for a node that took more than half a minute.
            raise TimeoutError(_one_line(error)) from error
        raise


def make_executor(
    address: str,
    *,
    workers: int | None,
    threads: int,
    gpus: float = 0.0,
    preload: Preload = (),
) -> Executor:
    """`serial` runs in this process; `local` starts Ray here; anything else is a Ray cluster's address.

    Workers of Ray import the modules of the functions `preload` while they start.
    """
    if address == "serial":
        return SerialExecutor()
    return RayExecutor(address, workers=workers, threads=threads, gpus=gpus, preload=preload)
