"""A sweep whose rounds are worth spreading: training runs on all workers, with the figures of one process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from orchestrator.driver import sweep as driver
from orchestrator.driver.sweep import run_sweep
from orchestrator.execute.execute import SerialExecutor
from orchestrator.runtime.progress import Silent
from tests.support.ray_cluster import ray_cluster
from tests.support.small import comparable, sweep


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    with ray_cluster(cpus=2) as address:
        yield address


@pytest.mark.slow
def test_a_sweep_of_a_large_federation_gives_the_serial_rows_and_accuracies(
    many_faces_root: Path, tmp_path: Path, cluster: str
) -> None:
    config = sweep(
        many_faces_root,
        federation={"clients": 24, "fraction": 0.25, "rounds": 2, "chunk": 2, "local": {"lr": 0.05}},
        capture__round=1,
        attackers__0__search={},
        utility={"train": 1000, "batch_size": 25},
    )
    serial, spread = tmp_path / "serial", tmp_path / "spread"
    for out, address in ((serial, "serial"), (spread, cluster)):
        outcome = run_sweep(config, out, address=address, reporter=Silent())
        assert (outcome.trials, outcome.failed) == (6, 0)
    pd.testing.assert_frame_equal(comparable(serial), comparable(spread))
    found = {path.name: path.read_text() for path in (serial / "utility").glob("*.json")}
    assert len(found) == 2
    assert found == {path.name: path.read_text() for path in (spread / "utility").glob("*.json")}


class InTurn(SerialExecutor):
    """Several jobs are out at a time, which are done in this process."""

    capacity = 3


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["in turn", pytest.param("ray", marks=pytest.mark.slow)])
def test_a_training_that_diverges_under_masks_is_a_result_and_not_the_end(
    many_faces_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    workers: str,
) -> None:
    config = sweep(
        many_faces_root,
        federation={"clients": 6, "rounds": 2, "local": {"lr": 0.05}},
        cells=[{"name": "none"}, {"name": "masks", "defense": [{"kind": "masking"}]}],
        attackers__0__search={},
        victims__test=1,
        utility={"train": 1000, "batch_size": 25, "lr": 1e6},
    )
    found = []
    for name in ("serial", "spread"):
        address = "serial"
        if (name, workers) == ("spread", "in turn"):
            monkeypatch.setattr(driver, "make_executor", lambda *_, **__: InTurn())
        elif name == "spread":
            address = request.getfixturevalue("cluster")
        outcome = run_sweep(config, tmp_path / name, address=address, reporter=Silent())
        assert outcome.failed == 0
        lines = [json.loads(path.read_text()) for path in (tmp_path / name / "utility").glob("*.json")]
        found.append({tuple(line["cells"]): line["result"] for line in lines})
    assert found[0] == found[1], "jobs that were out when a sum was refused answer no later question"
    assert set(found[0]) == {("none",), ("masks",)}
    assert all(result["diverged"] for result in found[0].values())
    assert len(found[0]["masks",]["per_round"]) < 3
