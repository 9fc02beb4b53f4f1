"""One driver a folder, on one machine and on several, whatever happens to the first."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fl_core.base.errors import InputError
from orchestrator.results import lease
from orchestrator.results.lease import Lease
from orchestrator.results.schema import trials_schema
from orchestrator.results.store import ResultStore
from tests.support.paths import ROOT
from tests.support.results_folder import row, trial

SILENCE = 1.5

# Owns the folder with short times, says so, and adds every line that it is told to `lines`.
OWNER = f"""
import sys
from pathlib import Path
from fl_core.base.errors import InputError
from orchestrator.results import lease
from orchestrator.io.files import append_line

lease.BEAT, lease.SILENCE = 0.2, {SILENCE}
folder = Path(sys.argv[1])
try:
    mine = lease.Lease(folder)
    mine.acquire()
    print("owner", flush=True)
    for line in sys.stdin:
        append_line(folder / "lines", line.encode(), allowed=mine.check)
        print("written", flush=True)
    mine.release()
except InputError as error:
    print(error, flush=True)
    sys.exit(2)
"""


def machine(name: str, folder: Path, locks: Path) -> subprocess.Popen[str]:
    """A driver on a machine of its own: another host name, and a lock file that no other machine sees."""
    if os.geteuid() or sys.platform != "linux" or shutil.which("unshare") is None:
        pytest.skip("emulated machines need Linux, root and unshare")
    (folder / ".lock").touch()
    own = locks / name
    own.touch()
    inside = f'hostname {name} && mount --bind "{own}" "{folder}/.lock" && exec "$@"'
    return subprocess.Popen(
        ["unshare", "-u", "-m", "sh", "-c", inside, "sh", sys.executable, "-c", OWNER, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        bufsize=1,
    )


def said(child: subprocess.Popen[str]) -> str:
    assert child.stdout
    return child.stdout.readline().strip()


def tell(child: subprocess.Popen[str], line: int) -> str:
    assert child.stdin
    child.stdin.write(f"{line}\n")
    child.stdin.flush()
    return said(child)


def finish(child: subprocess.Popen[str]) -> int:
    child.communicate(timeout=60)
    return child.returncode


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """A results folder that the machines share, and one for the locks that they do not."""
    folder, locks = tmp_path / "out", tmp_path / "locks"
    folder.mkdir()
    locks.mkdir()
    return folder, locks


def lines(folder: Path) -> list[int]:
    return [int(line) for line in (folder / "lines").read_text().split()]


def test_another_machine_is_refused_while_the_first_lives_and_takes_over_when_it_died(
    places: tuple[Path, Path],
) -> None:
    first = machine("alpha", *places)
    assert said(first) == "owner"
    second = machine("beta", *places)
    refusal = said(second)
    assert "in use by another gradsweep: process" in refusal
    assert "on alpha (since" in refusal
    assert finish(second) == 2
    assert tell(first, 1) == "written"
    first.send_signal(signal.SIGKILL)
    first.wait()
    third = machine("beta", *places)
    assert said(third) == "owner"
    assert tell(third, 2) == "written"
    assert finish(third) == 0
    assert lines(places[0]) == [1, 2]
    assert not list(places[0].glob(".owner-*"))


def test_of_two_that_take_over_one_wins(places: tuple[Path, Path]) -> None:
    first = machine("alpha", *places)
    assert said(first) == "owner"
    first.send_signal(signal.SIGKILL)
    first.wait()
    rivals = [machine(name, *places) for name in ("beta", "gamma", "delta")]
    answers = [said(rival) for rival in rivals]
    assert sorted(answer == "owner" for answer in answers) == [False, False, True], answers
    assert all("in use by another gradsweep" in answer for answer in answers if answer != "owner")
    assert sorted(finish(rival) for rival in rivals) == [0, 2, 2]


def test_a_driver_that_was_only_stalled_notices_and_stops_before_it_writes(
    places: tuple[Path, Path],
) -> None:
    first = machine("alpha", *places)
    assert said(first) == "owner"
    assert tell(first, 1) == "written"
    first.send_signal(signal.SIGSTOP)
    second = machine("beta", *places)
    assert said(second) == "owner"
    assert tell(second, 2) == "written"
    first.send_signal(signal.SIGCONT)
    stopped = tell(first, 3)
    assert f"{places[0]} was taken from this run" in stopped
    assert "now process" in stopped
    assert "on beta" in stopped
    assert lines(places[0]) == [1, 2]
    assert finish(first) == 2
    assert tell(second, 4) == "written"
    assert finish(second) == 0
    assert lines(places[0]) == [1, 2, 4]


def test_on_one_machine_the_lock_decides_and_a_crash_gives_it_back_at_once(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = places[0]
    child = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert said(child) == "owner"
    with pytest.raises(InputError, match=rf"in use by another gradsweep: process {child.pid} on "):
        Lease(folder).acquire()
    child.kill()
    child.wait()
    second, naps = Lease(folder), []
    monkeypatch.setattr(lease.time, "sleep", naps.append)
    second.acquire()
    assert not naps, "nobody waited for a sign of life"
    second.release()


def test_without_file_locks_the_owner_file_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import errno

    monkeypatch.setattr(lease, "BEAT", 0.1)
    monkeypatch.setattr(lease, "SILENCE", 1.0)

    def none(*_: object, **__: object) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    first, second = Lease(tmp_path), Lease(tmp_path)
    monkeypatch.setattr(type(first._lock), "acquire", none)
    first.acquire()
    assert "no file locks here" in caplog.text
    with pytest.raises(InputError, match="in use by another gradsweep"):
        second.acquire()
    first.check()
    first.release()
    second.acquire()
    second.check()
    second.release()
    assert [path.name for path in tmp_path.iterdir()] == []


def test_a_run_whose_owner_file_was_removed_writes_nothing_more(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match="its owner file is gone"),
        ResultStore(tmp_path, trials_schema([])) as store,
    ):
        store.add_trial(trial(row(victim=1)))
        next(tmp_path.glob(".owner-*")).unlink()
        store.add_trial(trial(row(victim=2)))
    with ResultStore(tmp_path, trials_schema([])) as store:
        assert store.rows(trial(row(victim=1)).trial_id)
        assert not store.rows(trial(row(victim=2)).trial_id)
