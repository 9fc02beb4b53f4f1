"""A cluster whose control service is killed in mid-sweep: the sweep ends clearly, and resumes elsewhere."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pandas as pd
import pytest
from ray.cluster_utils import Cluster

from orchestrator.driver.sweep import run_sweep
from orchestrator.execute import lifelines
from orchestrator.execute.lifelines import RayLost
from orchestrator.runtime.progress import Silent
from tests.support.faults import named
from tests.support.small import comparable, sweep


class Killer(Silent):
    """Kills a process of Ray's when the first trial is done."""

    def __init__(self, program: str) -> None:
        self._program = program

    def job_done(self, study: str, psnr: float | None) -> None:
        if self._program:
            os.kill(named(os.getpid(), self._program), signal.SIGKILL)
            self._program = ""


@pytest.fixture(scope="module")
def undisturbed(faces_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    run_sweep(sweep(faces_root), out, address="serial", reporter=Silent())
    return out


@pytest.mark.timeout(600)
@pytest.mark.parametrize("program", ["gcs_server", "raylet"])
def test_a_cluster_that_is_lost_ends_the_sweep_which_resumes(
    undisturbed: Path, faces_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    monkeypatch.setattr(lifelines, "PATIENCE_SECONDS", 1.0)
    config = sweep(faces_root)
    cluster = Cluster()
    cluster.add_node(num_cpus=1, include_dashboard=False)
    try:
        with pytest.raises(RayLost) as raised:
            run_sweep(config, tmp_path / "lost", address=cluster.address, reporter=Killer(program))
    finally:
        cluster.shutdown()
    assert raised.value.cluster is not None
    assert 1 <= pd.read_parquet(tmp_path / "lost" / "trials")["trial_id"].nunique() < 26
    run_sweep(config, tmp_path / "lost", address="serial", reporter=Silent())
    pd.testing.assert_frame_equal(comparable(tmp_path / "lost"), comparable(undisturbed))
