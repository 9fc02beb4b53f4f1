"""The pool of workers on a real Ray cluster of several nodes: who joins is used, who leaves costs little."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
import ray
import torch
from ray.cluster_utils import Cluster

from fl_core.base.errors import InputError
from orchestrator.config.sweep import ExecutionConfig
from orchestrator.driver.sweep import run_sweep
from orchestrator.execute import execute
from orchestrator.execute.execute import Done, RayExecutor, WorkerLost, slots
from orchestrator.runtime.progress import Silent
from tests.support.small import comparable, sweep

pytestmark = pytest.mark.timeout(900)

QUICK = {
    "health_check_initial_delay_ms": 500,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 500,
    "health_check_failure_threshold": 3,
}
"""Dead nodes are noticed in a second or two instead of a quarter of a minute."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One node with one CPU, where the driver lives."""
    made = Cluster()
    made.add_node(num_cpus=1, include_dashboard=False, _system_config=QUICK)
    yield made
    made.shutdown()


@contextmanager
def pool(
    cluster: Cluster, *, workers: int | None = None, threads: int = 1, gpus: float = 0.0
) -> Iterator[RayExecutor]:
    executor = RayExecutor(cluster.address, workers=workers, threads=threads, gpus=gpus)
    try:
        yield executor
    finally:
        executor.close()


def drain(executor: RayExecutor, count: int, seconds: float = 240.0) -> dict[str, Done]:
    """The next `count` results by key; each key comes once."""
    found: dict[str, Done] = {}
    deadline = time.monotonic() + seconds
    while len(found) < count and time.monotonic() < deadline:
        done = executor.next_done(0.5)
        if done is not None:
            assert done.key not in found, "a job has one result"
            found[done.key] = done
    return found


def node() -> str:
    return str(ray.get_runtime_context().get_node_id())


def hold(folder: Path, name: str) -> str:
    """Note this process and its node in a file, then wait for the file `go`."""
    scratch = folder / f"_{name}.{os.getpid()}"
    scratch.write_text(node())
    scratch.rename(folder / scratch.name[1:])
    while not (folder / "go").exists():
        time.sleep(0.02)
    return node()


def starts(executor: RayExecutor, folder: Path, name: str, count: int = 1) -> dict[int, str]:
    """Node by process of the starts of a job, once there are so many."""
    deadline = time.monotonic() + 240
    while len(found := list(folder.glob(f"{name}.*"))) < count:
        assert time.monotonic() < deadline, f"{name} did not start {count} times"
        assert executor.next_done(0.1) is None
    return {int(path.suffix[1:]): path.read_text() for path in found}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def threads_seen() -> tuple[str | None, int]:
    return os.environ.get("OMP_NUM_THREADS"), torch.get_num_threads()


def test_a_node_that_joins_is_used_and_one_that_is_killed_costs_only_what_it_ran(
    cluster: Cluster, tmp_path: Path
) -> None:
    with pool(cluster) as executor:
        assert executor.capacity == 1
        executor.submit("first", node)
        home = drain(executor, 1)["first"].result
        joined = cluster.add_node(num_cpus=1)
        for name in ("a", "b"):
            executor.submit(name, hold, tmp_path, name)
        begun = {name: starts(executor, tmp_path, name) for name in ("a", "b")}
        assert executor.capacity == 2
        at = {name: next(iter(found.values())) for name, found in begun.items()}
        assert len(set(at.values())) == 2, "the new node works too"
        lost, kept = sorted(at, key=lambda name: at[name] == home)
        cluster.remove_node(joined, allow_graceful=False)
        deadline = time.monotonic() + 240
        while executor.capacity > 1 and time.monotonic() < deadline:
            assert executor.next_done(0.1) is None
        assert executor.capacity == 1, "the pool has shrunk"
        (tmp_path / "go").touch()
        found = drain(executor, 2)
        assert {name: done.result for name, done in found.items()} == {"a": home, "b": home}
        assert len(starts(executor, tmp_path, lost, 2)) == 2
        assert len(starts(executor, tmp_path, kept)) == 1, "what ran elsewhere was left alone"
        assert executor.in_flight == 0
        assert executor.next_done(0.0) is None


def test_a_killed_process_costs_a_repetition_and_a_job_that_kills_all_its_processes_ends(
    cluster: Cluster, tmp_path: Path
) -> None:
    with pool(cluster) as executor:
        executor.submit("once", hold, tmp_path, "once")
        (first,) = starts(executor, tmp_path, "once")
        os.kill(first, signal.SIGKILL)
        assert len(starts(executor, tmp_path, "once", 2)) == 2
        (tmp_path / "go").touch()
        for name, job in (("always", die), ("after", node)):
            executor.submit(name, job)
        executor.submit("wrong", int, "no number")
        found = drain(executor, 4)
        assert found["once"].error is None
        assert isinstance(found["always"].error, WorkerLost)
        assert str(found["always"].error).startswith(
            "3 worker processes died under it, the last: The actor died"
        )
        assert found["after"].error is None, "the pool goes on"
        assert isinstance(found["wrong"].error, ValueError), "an error of the job is its own, and not retried"
        assert executor.in_flight == 0


def test_workers_take_the_cpus_threads_and_gpus_that_a_trial_asks_for(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execute, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    # Ray takes our word for the GPUs of a node.
    joined = cluster.add_node(num_cpus=5, num_gpus=2)
    with pool(cluster, threads=2) as executor:
        assert executor.capacity == 2, "the node with one CPU has no room for two threads"
        executor.submit("threads", threads_seen)
        assert drain(executor, 1)["threads"].result == ("2", 2)
    for gpus, workers, expected in (
        (1.0, None, 2),
        (0.4, None, 4),
        (0.25, None, 5),
        (2.0, None, 1),
        (0.25, 3, 3),
    ):
        with pool(cluster, workers=workers, gpus=gpus) as executor:
            assert executor.capacity == expected
    with pytest.raises(
        InputError, match=r"the 1 CPUs and 3 GPUs that a trial takes \(execution\.threads, exec"
    ):
        RayExecutor(cluster.address, workers=None, threads=1, gpus=3.0)
    assert not ray.is_initialized()
    cluster.remove_node(joined)


@pytest.mark.parametrize(
    ("resources", "threads", "gpus", "expected"),
    [
        ({"CPU": 8.0}, 3, 0.0, 2),
        ({"CPU": 8.0}, 1, 0.5, 0),
        ({"CPU": 8.0, "GPU": 1.0}, 1, 0.3333, 3),
        ({"CPU": 8.0, "GPU": 2.0}, 1, 0.4, 4),
        ({"CPU": 8.0, "GPU": 4.0}, 1, 3.0, 1),
        ({"CPU": 2.0, "GPU": 4.0}, 1, 0.5, 2),
        ({"GPU": 4.0}, 1, 1.0, 0),
    ],
)
def test_how_many_trials_fit_on_a_node(
    resources: dict[str, float], threads: int, gpus: float, expected: int
) -> None:
    assert slots(resources, threads=threads, gpus=gpus) == expected


def test_the_share_of_a_gpu_is_a_setting() -> None:
    assert ExecutionConfig(device="cpu").gpus == 0.0
    assert ExecutionConfig(device="cuda").gpus == ExecutionConfig(device="mps").gpus == 1.0
    assert ExecutionConfig(device="cuda", gpus_per_trial=0.25).gpus == 0.25
    with pytest.raises(InputError, match=r"gpus_per_trial = 1\.5: must be from 0 to 1, or a whole number"):
        ExecutionConfig(gpus_per_trial=1.5)


class NodeKiller(Silent):
    """Kills a node when so many jobs are done."""

    def __init__(self, cluster: Cluster, victim: object, after: int) -> None:
        self._cluster, self._victim, self._left = cluster, victim, after

    def job_done(self, study: str, psnr: float | None) -> None:
        self._left -= 1
        if self._left == 0:
            self._cluster.remove_node(self._victim, allow_graceful=False)


def test_a_sweep_that_loses_a_node_ends_with_the_rows_of_an_undisturbed_one(
    cluster: Cluster, faces_root: Path, tmp_path: Path
) -> None:
    config = sweep(faces_root, study__suggestions=3)
    run_sweep(config, tmp_path / "undisturbed", address="serial", reporter=Silent())
    joined = cluster.add_node(num_cpus=1)
    killer = NodeKiller(cluster, joined, after=4)
    outcome = run_sweep(config, tmp_path / "disturbed", address=cluster.address, reporter=killer)
    assert (outcome.trials, outcome.failed) == (18, 0)
    rows = comparable(tmp_path / "disturbed")
    assert not rows.duplicated(["trial_id", "image_id"]).any()
    pd.testing.assert_frame_equal(comparable(tmp_path / "undisturbed"), rows)
