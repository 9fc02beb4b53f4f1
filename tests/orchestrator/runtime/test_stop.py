"""How a process that is told to stop ends; whole sweeps that are stopped are in `test_faults`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.cli import experiment
from orchestrator.runtime.stop import EXIT_CODE, Stop, Stopped
from tests.support.paths import ROOT

# A program that no polite request reaches: it is never in a window and never checks.
DEAF = """
import sys, time
from orchestrator.runtime import stop

stop.PATIENCE = float(sys.argv[1])
with stop.Stop().listening():
    print("ready", flush=True)
    while True:
        time.sleep(0.05)
"""


def deaf(patience: float) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", DEAF, str(patience)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert child.stdout
    assert child.stdout.readline() == "ready\n"
    return child


def test_a_second_signal_ends_at_once() -> None:
    child = deaf(patience=1000.0)
    child.send_signal(signal.SIGUSR1)
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(timeout=1.0)
    child.send_signal(signal.SIGTERM)
    _, said = child.communicate(timeout=60)
    assert child.returncode == EXIT_CODE
    assert said == "gradsweep: stopped by SIGTERM, at once; run the same command again to resume.\n"


def test_a_stop_that_hangs_is_ended_after_some_patience() -> None:
    child = deaf(patience=0.5)
    child.send_signal(signal.SIGTERM)
    _, said = child.communicate(timeout=60)
    assert child.returncode == EXIT_CODE
    assert "stopped by SIGTERM, at once; run the same command again to resume." in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_only_a_window_is_broken_off_and_a_check_tells_the_rest(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Stop().listening() as stop:
        os.kill(os.getpid(), number)
        whole = list(range(1000))  # Outside of a window nothing is broken off.
        assert whole
        with pytest.raises(Stopped, match=number.name):
            stop.check()
        with pytest.raises(Stopped, match=number.name), stop.window():
            raise AssertionError("no window opens any more")
    assert signal.getsignal(number) == before
    reached = []
    with Stop().listening() as stop, pytest.raises(Stopped), stop.window():
        os.kill(os.getpid(), number)
        reached.extend(range(10**7))
    assert not reached
    assert signal.getsignal(number) == before


def test_a_stop_that_a_callback_swallowed_is_told_at_the_end_of_the_window() -> None:
    with Stop().listening() as stop:

        def work() -> int:
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                return 1
            except BaseException:
                return 2

        with pytest.raises(Stopped):
            stop.breakable(work)()


def test_a_library_that_ends_the_process_while_it_starts_counts_as_told() -> None:
    with Stop().listening() as stop:
        with pytest.raises(Stopped, match="SIGTERM"), stop.starting():
            signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped):
            stop.check()
    with pytest.raises(SystemExit), Stop().starting():
        sys.exit(3)


def test_a_stopped_experiment_names_its_folder(
    faces_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["--data-root", str(faces_root), "--model", "mlp", "--image-size", "16", "--data-subset", "20"]
    with Stop().listening() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped):
            experiment.run(experiment.parse(flags), Console(), stop)
    folder = next((tmp_path / "results").iterdir())
    assert capsys.readouterr().out == f"Give --out-dir results/{folder.name} to go on with this run.\n"
