"""Memory that runs out: a real allocator that refuses, smaller and smaller tries, then a failed row."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from attack_core.attacks.auto import Auto
from attack_core.attacks.registry import AnyAttack
from attack_core.matching.matching import Matching
from fl_core.base.device import out_of_memory
from fl_core.data.dataset import ImageDataset
from orchestrator.config.sweep import SweepConfig
from orchestrator.driver import sweep as driver
from orchestrator.runtime.progress import Silent
from orchestrator.trial import run
from orchestrator.trial.memory import packings
from orchestrator.trial.run import TrialResult, trial_job
from orchestrator.trial.spec import TrialSpec
from tests.support.matched import attacked, observed
from tests.support.small import sweep, tree

# With 250 to 410 MB half of 64 restarts fit (cnn64, 32-pixel images), with 110 to 230 a quarter or an eighth.
SCRIPT = """
import json, os, resource, sys
from pathlib import Path
from orchestrator.config.sweep import SweepConfig
from orchestrator.config.plain import build
from orchestrator.runtime.progress import Silent
from orchestrator.driver.sweep import run_sweep

def run(name, restarts):
    tree = json.loads(sys.argv[1])
    tree["attackers"][0]["attack"]["restarts"] = restarts
    config = build(SweepConfig, tree, where="test")
    run_sweep(config, Path(sys.argv[2]) / name, address="serial", reporter=Silent())

run("warm", 1)  # What is imported and started once counts into the base.
status = Path("/proc/self/status").read_text()
base = 1024 * int(status.split("VmSize:")[1].split()[0])
for name, room in (("few", 180), ("half", 330), ("all", None)):
    # A process for each: what a library could not set up within a limit, it may never set up again.
    if (child := os.fork()) == 0:
        limit = resource.RLIM_INFINITY if room is None else base + room * 10**6
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        run(name, 64)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux holds a process to RLIMIT_AS")
def test_a_trial_that_runs_out_of_memory_halves_its_restarts_at_a_time_until_they_fit(
    faces_root: Path, tmp_path: Path
) -> None:
    config = tree(
        faces_root,
        model={"kind": "cnn64", "image_size": 32},
        victims={"tuning": 0, "test": 1},
        execution={"device": "cpu", "controls": False},
        cells=[{"name": "none"}],
        attackers=[
            {
                "attack": {
                    "kind": "matching",
                    "iterations": 2,
                }
            }
        ],
    )
    # Threads that contend for memory reserve address space for arenas of their own, which the limit counts too.
    alone = {**os.environ, "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, json.dumps(config), str(tmp_path)]
    subprocess.run(command, check=True, timeout=200, env=alone)
    every, half, few = (pd.read_parquet(tmp_path / name / "trials") for name in ("all", "half", "few"))
    assert (every["status"][0], every["packing"][0]) == ("ok", 64)
    assert (half["status"][0], half["packing"][0]) == ("ok", 32), half["error"][0]
    assert few["status"][0] == "ok" and few["packing"][0] in (8, 16), few["error"][0]
    for smaller in (half, few):
        assert smaller["trial_id"][0] == every["trial_id"][0], "it is the same trial"
        for name in ("psnr", "psnr_oracle", "match_loss"):
            assert smaller[name][0] == pytest.approx(every[name][0], rel=1e-3)


def matching(faces_root: Path, *, victims: int, restarts: int) -> SweepConfig:
    """Two iterations on so many test victims without a defense."""
    attack = {"kind": "matching", "iterations": 2, "restarts": restarts}
    return sweep(
        faces_root,
        victims={"tuning": 0, "test": victims},
        cells=[{"name": "none"}],
        attackers=[{"attack": attack}],
    )


def test_a_trial_for_which_not_even_one_restart_fits_is_a_failed_row(
    faces_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(run, "_attack", refuse)
    config = matching(faces_root, victims=1, restarts=6)
    outcome = driver.run_sweep(config, tmp_path, address="serial", reporter=Silent())
    assert (outcome.trials, outcome.failed) == (1, 1)
    rows = pd.read_parquet(tmp_path / "trials")
    assert (rows["status"][0], rows["packing"][0]) == ("failed", 1)
    assert rows["error"][0] == (
        "out of memory with 6, 3 and then 1 restarts at a time on cpu: CUDA out of memory. Tried to allocate 2.00 GiB"
    )


@pytest.mark.parametrize("options", [{}, {"optimizer": "lbfgs", "iterations": 5}, {"labels": "optimize"}])
def test_restarts_packed_differently_agree_to_rounding(faces: ImageDataset, options: dict[str, Any]) -> None:
    observation, _ = observed(faces)
    few = {"iterations": 8, "restarts": 3} | options
    together, alone = attacked(observation, **few), attacked(observation, **few, packing=1)
    torch.testing.assert_close(alone.candidates, together.candidates, atol=1e-3, rtol=0)
    torch.testing.assert_close(alone.history, together.history, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("attack", "expected"),
    [
        (Matching(restarts=7), (7, 3, 1)),
        (Matching(restarts=7, packing=2), (2, 1)),
        (Matching(restarts=7, packing=9), (7, 3, 1)),
        (Matching(restarts=64), (64, 32, 16, 8, 4, 2, 1)),
        (Matching(), (1,)),
        (Auto(fallback=Matching(restarts=4)), (4, 2, 1)),
    ],
)
def test_each_try_packs_half_of_the_one_before(attack: AnyAttack, expected: tuple[int, ...]) -> None:
    assert packings(attack) == expected


def test_only_memory_counts_as_memory() -> None:
    with pytest.raises(RuntimeError, match="allocate") as refused:
        torch.empty(2**60, dtype=torch.uint8)
    assert out_of_memory(refused.value)
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 17.8 GB)"))
    assert out_of_memory(
        RuntimeError("could not create a primitive")
    )  # oneDNN, whose kernels are made at run time.
    assert out_of_memory(MemoryError())
    with pytest.raises(RuntimeError) as other:
        torch.ones(2) @ torch.ones(3)
    assert not out_of_memory(other.value)


def killed_for_memory(spec: TrialSpec, *rest: Any, attempt: int = 0, **options: Any) -> TrialResult:
    """As where Ray's memory monitor ends the process: nothing in the worker can try again."""
    if attempt == 0 or spec.victim == 1:
        raise MemoryError("the node was running low")
    return trial_job(spec, *rest, attempt=attempt, **options)


def test_a_process_that_was_ended_for_memory_is_tried_again_by_the_driver(
    faces_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "trial_job", killed_for_memory)
    config = matching(faces_root, victims=2, restarts=3)
    outcome = driver.run_sweep(config, tmp_path, address="serial", reporter=Silent())
    assert (outcome.trials, outcome.failed) == (2, 1)
    rows = pd.read_parquet(tmp_path / "trials").sort_values("victim")
    assert rows["status"].tolist() == ["ok", "failed"]
    assert rows["packing"].tolist() == [1, 1]
    assert rows["error"].tolist()[1] == (
        "out of memory with 3 and then 1 restarts at a time: the node was running low"
    )
