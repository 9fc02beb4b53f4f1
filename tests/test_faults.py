"""Whatever happens to a sweep, it ends with one result for each trial and the summary of an undisturbed run."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from orchestrator import sweep as driver
from orchestrator.progress import Silent
from orchestrator.stop import EXIT_CODE
from orchestrator.sweep import run_sweep
from tests import faults
from tests.faults import TRIALS, assert_same_end, await_that, busy_workers, ended, finished

ROOT = Path(__file__).parent.parent

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="finds Ray's workers in /proc")


def run(config: Any, out: Path, address: str = "serial") -> driver.Outcome:
    return run_sweep(config, out, address=address, reporter=Silent())


@pytest.fixture(scope="module")
def undisturbed(faces_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    outcome = run(faults.config(faces_root), out)
    assert (outcome.trials, outcome.fresh, outcome.failed) == (TRIALS, TRIALS, 0)
    return out


def test_told_to_stop_it_ends_with_75_and_the_next_run_goes_on(
    undisturbed: Path, faces_root: Path, tmp_path: Path
) -> None:
    line = faults.command(faults.write_file(tmp_path, faces_root), tmp_path / "out")
    done = 0
    for number in (signal.SIGTERM, signal.SIGUSR1):
        log = tmp_path / "log"
        child = faults.start(line, log)
        await_that(lambda done=done: finished(tmp_path / "out") > done, child, log)
        os.kill(child.pid, number)
        code = child.wait(timeout=60)
        if code == 0:
            break  # The sweep was faster than the signal.
        assert code == EXIT_CODE == 75, log.read_text()
        said = log.read_text().splitlines()[-1]
        assert said == f"gradsweep: stopped by {number.name}; run the same command again to resume."
        assert finished(tmp_path / "out") > done
        done = finished(tmp_path / "out")
        assert len(pd.read_parquet(tmp_path / "out" / "trials")) == done, "flushed"
    assert done
    faults.complete(line)
    assert_same_end(undisturbed, tmp_path / "out")


def test_a_trial_of_minutes_does_not_delay_the_stop_and_a_second_signal_ends_at_once(
    faces_root: Path, tmp_path: Path
) -> None:
    endless = {"kind": "matching", "iterations": 10**7}
    file = faults.write_file(
        tmp_path, faces_root, attackers__0__attack=endless, attackers__0__search={}, victims={"test": 1}
    )
    line, log = faults.command(file, tmp_path / "out"), tmp_path / "log"
    child = faults.start(line, log)
    await_that(lambda: list(tmp_path.glob("out/captures/*/record.json")), child, log)
    time.sleep(1.0)
    os.kill(child.pid, signal.SIGTERM)
    assert child.wait(timeout=20) == EXIT_CODE, log.read_text()
    assert "stopped by SIGTERM" in log.read_text()


@LINUX
def test_on_ray_a_killed_worker_and_a_stopped_driver_cost_only_what_ran(
    undisturbed: Path, faces_root: Path, tmp_path: Path
) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    file = faults.write_file(tmp_path, faces_root, execution__workers=2)
    child = faults.start(faults.command(file, out, "local"), log)
    victim = await_that(lambda: busy_workers(child.pid), child, log)[0]
    os.kill(victim, signal.SIGKILL)
    await_that(lambda: ended(victim) and finished(out) >= 2, child, log)
    family = faults.children(child.pid)
    os.kill(child.pid, signal.SIGTERM)
    assert child.wait(timeout=20) == EXIT_CODE, log.read_text()
    rows = pd.read_parquet(out / "trials")
    assert set(rows["status"]) == {"ok"}, "neither the kill nor the stop has failed a trial"
    assert len(rows) == finished(out) < TRIALS
    end = time.monotonic() + 30
    while left := [name for process, name in family.items() if not ended(process)]:
        assert time.monotonic() < end, left
        time.sleep(0.1)
    faults.complete(faults.command(file, out))
    assert_same_end(undisturbed, out)
