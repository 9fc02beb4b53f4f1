"""The batch scripts on a real Slurm: two nodes, a requeue that resumes, a node that dies, a job array."""

from __future__ import annotations

import re
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from ruamel.yaml import YAML

from orchestrator.analysis.summary import summarize
from orchestrator.config.parse import load_sweep
from orchestrator.driver.merge import merge_folders
from orchestrator.driver.sweep import run_sweep
from orchestrator.runtime.progress import Silent
from tests.cluster import emulated
from tests.cluster.emulated import Cluster, command_line, until
from tests.support.paths import ROOT
from tests.support.small import comparable, tree

ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")
TRIALS = 2 * (5 * 2 + 3)

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    reason = emulated.missing()
    if reason:
        pytest.skip(f"no emulated cluster: {reason}")
    with Cluster(nodes=2) as running:
        yield running


@pytest.fixture(scope="module")
def work(faces_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to submit from, with a sweep of 26 trials that takes long enough to be disturbed."""
    folder = tmp_path_factory.mktemp("work")
    content = tree(faces_root, attackers__0__attack__iterations=150)
    YAML(typ="safe", pure=True).dump(content, folder / "small.yaml")
    return folder


@pytest.fixture(scope="module")
def undisturbed(work: Path) -> Path:
    out = work / "undisturbed"
    outcome = run_sweep(load_sweep(work / "small.yaml"), out, address="serial", reporter=Silent())
    assert (outcome.trials, outcome.failed) == (TRIALS, 0)
    return out


def submit(cluster: Cluster, work: Path, script: str, *arguments: str, options: tuple[str, ...] = ()) -> str:
    """`sbatch` from the work folder; the job's id."""
    here = {"GRADSWEEP_HOME": str(ROOT), "PYTHONPATH": str(ROOT), "GRADSWEEP_VENV": sys.prefix}
    asked = ("--parsable", f"--cpus-per-task={emulated.CPUS}", "--mem=2000", *options)
    return cluster.slurm("sbatch", *asked, str(ROOT / "slurm" / script), *arguments, cwd=work, **here).strip()


def ended(cluster: Cluster, job: str, seconds: float = 400.0) -> str:
    """Wait for the job's end; its state."""
    until(lambda: cluster.job(job, "JobState") in ENDED, f"job {job} has ended", seconds)
    return cluster.job(job, "JobState")


def said(work: Path, pattern: str = "gradsweep-*") -> str:
    """Everything that jobs wrote beside their results, for a failing test's message."""
    found = [path for path in sorted(work.glob(pattern)) if path.is_file()]
    found += sorted(work.glob("gradsweep-*/*.log"))
    return "\n".join(f"--- {path}\n{path.read_text()}" for path in found)


def hosts(out: Path) -> list[str]:
    """Where each trial ran that has a result on disk."""
    found = [
        host for part in sorted(out.glob("trials/part-*.parquet")) for host in pd.read_parquet(part)["host"]
    ]
    log = out / "pending.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    return found + [match[1] for line in lines if (match := re.search(r'"host": "(\w+)"', line))]


def command_lines() -> list[str]:
    """Every process of the machine; a host's are among them."""
    return [command_line(int(path.name)) for path in Path("/proc").glob("[0-9]*")]


def check_rows(out: Path, undisturbed: Path) -> pd.DataFrame:
    """Each trial once, and the figures of a serial run without disturbance."""
    rows = pd.read_parquet(out / "trials")
    assert len(rows) == rows["trial_id"].nunique() == TRIALS
    pd.testing.assert_frame_equal(comparable(out), comparable(undisturbed))
    return rows


def test_two_nodes_share_a_sweep_and_leave_nothing_behind(
    cluster: Cluster, work: Path, undisturbed: Path
) -> None:
    out = work / "two"
    job = submit(cluster, work, "sweep.sbatch", "small.yaml", str(out), options=("--gpus-per-node=1",))
    token = work / f"gradsweep-{job}" / "token"
    until(lambda: len(hosts(out)) >= 2 or cluster.job(job, "JobState") in ENDED, "two trials")
    secret = token.read_text()
    assert len(secret) == 64
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    running = command_lines()
    assert sum(f"gs{job}." in line for line in running) > 2, "Ray runs in the job's own folders"
    assert not any(secret in line for line in running)
    assert ended(cluster, job) == "COMPLETED", said(work)
    rows = check_rows(out, undisturbed)
    assert set(rows["host"]) == {"node1", "node2"}
    assert "2 of 2 nodes" in said(work)
    for log in ("head.log", "node2.log"):
        assert f"{emulated.CPUS} CPUs, 1 GPUs, object store 400 MB" in (token.parent / log).read_text()
    assert not token.exists()
    assert not any(f"gs{job}." in line for line in command_lines())
    assert not list(Path("/tmp").glob(f"gs{job}.*"))
    written = [path for folder in (out, work) for path in folder.rglob("*") if path.is_file()]
    assert not [path for path in written if secret.encode() in path.read_bytes()]


def test_a_job_that_is_told_to_stop_requeues_itself_and_resumes(
    cluster: Cluster, work: Path, undisturbed: Path
) -> None:
    out = work / "requeued"
    job = submit(cluster, work, "sweep.sbatch", "small.yaml", str(out))
    until(lambda: len(hosts(out)) >= 4, "four trials")
    # What Slurm sends before the time limit, to the batch shell alone.
    cluster.slurm("scancel", "--batch", "--signal=USR1", job)
    until(lambda: cluster.job(job, "Restarts") == "1", "a restart")
    before = len(hosts(out))
    assert 4 <= before < TRIALS
    assert ended(cluster, job) == "COMPLETED", said(work)
    output = (work / f"gradsweep-{job}.out").read_text()
    for part in (
        "start 1",
        "USR1: stopping",
        "queued again",
        "start 2",
        f"{before} of {TRIALS} jobs are already done",
    ):
        assert part in output
    check_rows(out, undisturbed)


def test_a_node_that_dies_costs_no_trial(cluster: Cluster, work: Path, undisturbed: Path) -> None:
    out = work / "lost"
    job = submit(cluster, work, "sweep.sbatch", "small.yaml", str(out))
    until(lambda: len(hosts(out)) >= 4 and "node2" in hosts(out), "four trials, one of them on node 2")
    cluster.kill_node(2)
    assert len(hosts(out)) < TRIALS
    try:
        assert ended(cluster, job) == "COMPLETED", said(work)
    finally:
        cluster.start_node(2)
        until(lambda: cluster.idle() == 2, "the node is back")
    check_rows(out, undisturbed)


def test_an_array_of_cells_is_merged_into_the_whole_sweep(
    cluster: Cluster, work: Path, undisturbed: Path
) -> None:
    out = work / "cells"
    job = submit(cluster, work, "sweep_array.sbatch", "small.yaml", str(out), options=("--array=0-1",))
    until(lambda: not cluster.slurm("squeue", "-h", "-j", job).strip(), "both elements have ended", 400)
    merged = merge_folders([out / "none", out / "dp"], work / "merged")
    assert (merged.trials, merged.failed) == (TRIALS, 0), said(work)
    check_rows(work / "merged", undisturbed)
    times = ["seconds", "cpu_seconds"]
    pd.testing.assert_frame_equal(
        summarize(work / "merged").drop(columns=times), summarize(undisturbed).drop(columns=times)
    )


def test_an_element_beyond_the_cells_says_so(cluster: Cluster, work: Path) -> None:
    out = work / "beyond"
    job = submit(cluster, work, "sweep_array.sbatch", "small.yaml", str(out), options=("--array=7",))
    assert ended(cluster, job) == "FAILED"
    assert "there is no cell 7: small.yaml has 2" in (work / f"gradsweep-{job}_7.out").read_text()
    assert not any(f"gs{job}." in line for line in command_lines())
    assert not list(out.iterdir())


def test_elastic_workers_come_late_and_go_early_and_end_with_the_sweep(
    cluster: Cluster, work: Path, undisturbed: Path
) -> None:
    out = work / "elastic"
    head = submit(cluster, work, "elastic.sbatch", "small.yaml", str(out))
    until(lambda: hosts(out) or cluster.job(head, "JobState") in ENDED, "a trial on the head's own node")
    assert set(hosts(out)) == {"node1"}
    # The head's own workers stand still, so the sweep cannot be over before the others have come and gone.
    with cluster.paused(1, "ray::"):
        # The second element finds no free node until the first one has left.
        workers = submit(cluster, work, "elastic_worker.sbatch", head, options=("--array=1-2",))
        until(lambda: "node2" in hosts(out), "a trial on the worker that came late")
        cluster.slurm("scancel", "--batch", "--signal=TERM", f"{workers}_1")
        left = work / f"gradsweep-{workers}_1.out"
        until(lambda: "TERM: stopping" in left.read_text(), "the first worker leaves")
        log = work / f"gradsweep-{workers}_2.out"
        until(lambda: log.exists() and "joining" in log.read_text(), "the second worker joins")
    assert ended(cluster, head) == "COMPLETED", said(work)
    until(lambda: not cluster.slurm("squeue", "-h", "-j", workers).strip(), "the workers have ended", 60)
    assert cluster.job(f"{workers}_2", "JobState") == "COMPLETED"
    rows = check_rows(out, undisturbed)
    assert set(rows["host"]) == {"node1", "node2"}
    folder = work / f"gradsweep-{head}"
    assert (folder / "done").exists()
    assert not (folder / "token").exists()
    assert not (folder / "address").exists()
    assert not any(f"gs{job}." in line for line in command_lines() for job in (head, workers))


def test_a_worker_of_a_sweep_that_is_done_ends_at_once(cluster: Cluster, work: Path) -> None:
    done = work / "gradsweep-77"
    done.mkdir()
    (done / "done").touch()
    job = submit(cluster, work, "elastic_worker.sbatch", "77")
    assert ended(cluster, job) == "COMPLETED", "the sweep was done already"
