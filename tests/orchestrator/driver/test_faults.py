"""Whatever happens to a sweep, it ends with one result for each trial and the summary of an undisturbed run."""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from fl_core.base.errors import InputError
from orchestrator.analysis.summary import summarize
from orchestrator.driver import sweep as driver
from orchestrator.driver.sweep import run_sweep
from orchestrator.io.files import typed, unsealed, write_json
from orchestrator.results.journal import FinishedTrial, Journal, StudyRow
from orchestrator.results.store import read_images, read_rows, read_studies
from orchestrator.runtime.progress import Silent
from orchestrator.runtime.stop import EXIT_CODE
from tests.support import faults
from tests.support.faults import TRIALS, assert_same_end, await_that, busy_workers, ended, finished
from tests.support.paths import ROOT

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="finds Ray's workers in /proc")


def run(config: Any, out: Path, address: str = "serial") -> driver.Outcome:
    return run_sweep(config, out, address=address, reporter=Silent())


@pytest.fixture(scope="module")
def undisturbed(faces_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    outcome = run(faults.config(faces_root), out)
    assert (outcome.trials, outcome.fresh, outcome.failed) == (TRIALS, TRIALS, 0)
    return out


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_trial_of_minutes_does_not_delay_the_stop(faces_root: Path, tmp_path: Path) -> None:
    flags = {"data-root": faces_root, "out-dir": tmp_path / "out", "model": "mlp", "image-size": 16}
    flags |= {"data-subset": 20, "num-clients": 2, "attack-iterations": 10**7, "controls": ""}
    line = [sys.executable, "-m", "orchestrator", "run"]
    line += [word for name, value in flags.items() for word in (f"--{name}", str(value)) if word]
    log = tmp_path / "log"
    child = faults.start(line, log)
    await_that(lambda: list(tmp_path.glob("out/captures/*/record.json")), child, log)
    time.sleep(1.0)
    os.kill(child.pid, signal.SIGTERM)
    assert child.wait(timeout=20) == EXIT_CODE, log.read_text()
    assert "gradsweep: stopped by SIGTERM; run the same command again to resume." in log.read_text()


@pytest.mark.slow
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


class Killer(Silent):
    """Kills a process of Ray's when the first trial is done, and notes what is said."""

    def __init__(self, program: str) -> None:
        self._program = program
        self.said: list[str] = []

    def job_done(self, study: str, psnr: float | None) -> None:
        if self._program:
            os.kill(faults.named(os.getpid(), self._program), signal.SIGKILL)
            self._program = ""

    def message(self, text: str) -> None:
        self.said.append(text)


@pytest.mark.slow
@LINUX
@pytest.mark.timeout(900)
@pytest.mark.parametrize("process", ["raylet", "gcs_server"])
def test_a_local_ray_that_dies_is_started_again(
    undisturbed: Path, faces_root: Path, tmp_path: Path, process: str
) -> None:
    killer = Killer(process)
    config = faults.config(faces_root, execution__workers=1)
    outcome = run_sweep(config, tmp_path / "out", address="local", reporter=killer)
    said = "\n".join(killer.said)
    assert "Ray's process at" in said
    assert "is gone (Connection refused); it is started again." in said
    assert (outcome.trials, outcome.fresh, outcome.failed) == (TRIALS, TRIALS, 0)
    assert_same_end(undisturbed, tmp_path / "out")


@pytest.mark.slow
def test_a_disk_that_is_full_again_and_again_costs_nothing_that_was_recorded(
    undisturbed: Path, faces_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run n meets a full disk at its n-th write, whatever that is; no reader trips over what is left."""
    real, calls, stops = os.fsync, 0, 0
    met: set[str] = set()

    def fsync(descriptor: int) -> None:
        nonlocal calls
        calls += stat.S_ISREG(os.fstat(descriptor).st_mode)
        if calls > stops:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    recorded = 0
    while True:
        calls = 0
        try:
            run(faults.config(faces_root), tmp_path)
            break
        except InputError as error:
            stops += 1
            assert str(error).startswith(f"Cannot write {tmp_path}")
            assert "No space left on device; free some space" in str(error)
            met.add(Path(str(error).split()[2].rstrip(":")).relative_to(tmp_path).parts[0])
        if finished(tmp_path):
            assert summarize(tmp_path)["trials"].sum() == finished(tmp_path) >= recorded
            recorded = finished(tmp_path)
    assert stops >= 5
    assert {"sweep.json", "captures", "trials", "studies"} <= met, met
    monkeypatch.undo()
    assert_same_end(undisturbed, tmp_path)


@pytest.mark.slow
def test_a_real_full_disk_stops_clearly_reads_and_goes_on(
    undisturbed: Path, faces_root: Path, tmp_path: Path
) -> None:
    if os.geteuid() or sys.platform != "linux" or shutil.which("unshare") is None:
        pytest.skip("a small file system needs Linux, root and unshare")
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    file = faults.write_file(tmp_path, faces_root)
    # The captures of the first cell fit; the filler leaves room for some results, and is removed later.
    script = f"""
import shutil
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from orchestrator.cli.main import execute

def run(name, *arguments):
    with open(Path({str(tmp_path)!r}) / name, "w") as said, redirect_stdout(said), redirect_stderr(said):
        print(execute(arguments))

disk, sweep = Path({str(disk)!r}), {faults.command(file, disk / "out")[3:]!r}
(disk / "filler").write_bytes(bytes(12000 * 1024))
run("first", *sweep)
run("report", "report", str(disk / "out"))
shutil.copytree(disk / "out", {str(tmp_path / "full")!r})
(disk / "filler").unlink()
run("second", *sweep)
shutil.copytree(disk / "out", {str(kept)!r})
"""
    mounted = f"mount -t tmpfs -o size=24m tmpfs {disk} && exec {sys.executable} -c {shlex.quote(script)}"
    subprocess.run(["unshare", "-m", "sh", "-c", mounted], check=True, timeout=250, cwd=ROOT)
    *first, code = (tmp_path / "first").read_text().splitlines()
    assert code == "2", first
    assert "Traceback" not in "".join(first)
    last = first[-1]
    assert last.startswith(f"gradsweep: Cannot write {disk / 'out'}")
    assert "No space left on device; free some space and run the same command again" in last
    assert 0 < finished(tmp_path / "full") < TRIALS
    said = (tmp_path / "report").read_text()
    assert "Traceback" not in said
    assert "none / generic" in said
    *second, code = (tmp_path / "second").read_text().splitlines()
    assert code == "0", second
    assert_same_end(undisturbed, kept)


def test_numbers_that_are_not_finite_fail_their_trials_alone(faces_root: Path, tmp_path: Path) -> None:
    """Clients that diverge send updates of NaN; other cells and the summary stand."""
    cells = [
        {"name": "none"},
        {
            "name": "diverging",
            "differs": {
                "capture.signal": "local_update",
                "federation.local.lr": 1e30,
                "federation.local.epochs": 3,
            },
        },
    ]
    attackers = [
        {"name": "fine", "attack": {"kind": "matching", "iterations": 3}},
        {"name": "wild", "attack": {"kind": "matching", "iterations": 3, "lr": 1e30, "preset": "none"}},
    ]
    outcome = run(faults.config(faces_root, cells=cells, attackers=attackers), tmp_path)
    rows = pd.read_parquet(tmp_path / "trials")
    assert (outcome.trials, outcome.failed) == (8, 6)
    assert not rows.duplicated(["trial_id", "image_id"]).any()
    status = rows.groupby(["cell", "attacker"])["status"].agg(set).to_dict()
    assert status == {
        ("none", "fine"): {"ok"},
        ("none", "wild"): {"failed"},
        ("diverging", "fine"): {"failed"},
        ("diverging", "wild"): {"failed"},
    }
    assert rows.loc[rows["status"] == "failed", "error"].str.contains("finite").all()
    summary = summarize(tmp_path).set_index(["cell", "attacker"])
    assert summary["n"].to_dict() == {key: 2 * (value == {"ok"}) for key, value in status.items()}
    assert summary["tests_failed"].to_dict() == {
        key: 2 * (value == {"failed"}) for key, value in status.items()
    }


def truncated(root: Path, name: str) -> None:
    path = root / "img_align_celeba" / name
    path.write_bytes(path.read_bytes()[:200])


def own_faces(undisturbed: Path, faces_root: Path, tmp_path: Path) -> tuple[Path, str]:
    """A copy of the faces, and which of them only the last victim needs."""
    rows = pd.read_parquet(undisturbed / "trials")
    root = tmp_path / "faces"
    shutil.copytree(faces_root, root)
    return root, rows.loc[rows["victim"].idxmax(), "image_id"].partition(":")[0]


def test_a_corrupt_image_is_named_before_the_first_trial(
    undisturbed: Path, faces_root: Path, tmp_path: Path
) -> None:
    root, last = own_faces(undisturbed, faces_root, tmp_path)
    truncated(root, last)
    with pytest.raises(InputError, match=rf"{last}: not a readable image") as raised:
        run(faults.config(root), tmp_path / "out")
    assert "\n" not in str(raised.value)
    assert finished(tmp_path / "out") == 0
    shutil.copy(faces_root / "img_align_celeba" / last, root / "img_align_celeba" / last)
    assert run(faults.config(root), tmp_path / "out").failed == 0


@pytest.mark.slow
def test_an_image_that_breaks_in_mid_sweep_stops_it_with_its_name_and_what_is_done_stays(
    undisturbed: Path, faces_root: Path, tmp_path: Path
) -> None:
    root, last = own_faces(undisturbed, faces_root, tmp_path)

    class Vandal(Silent):
        def job_done(self, study: str, psnr: float | None) -> None:
            truncated(root, last)

    with pytest.raises(InputError, match=rf"{last}: not a readable image"):
        run_sweep(faults.config(root), tmp_path / "out", address="serial", reporter=Vandal())
    assert 0 < finished(tmp_path / "out") < TRIALS
    assert summarize(tmp_path / "out")["trials"].sum() == finished(tmp_path / "out")
    shutil.copy(faces_root / "img_align_celeba" / last, root / "img_align_celeba" / last)
    outcome = run(faults.config(root), tmp_path / "out")
    assert (outcome.trials, outcome.failed) == (TRIALS, 0)
    assert outcome.fresh < TRIALS


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("trials", r"part-\d+\.parquet has schema version 1, this gradsweep writes and reads \d"),
        ("images", r"part-\d+\.parquet has schema version 1, this gradsweep writes and reads \d"),
        ("studies", r"studies\.parquet has schema version 1, this gradsweep writes and reads \d"),
        ("sweep.json", r"sweep\.json has format 1, this gradsweep writes and reads 2; use another --out"),
        ("captures", r"record\.json has format 1, this gradsweep writes and reads \d; use another --out"),
        ("pending.jsonl", r"pending\.jsonl has schema version 1, this gradsweep writes and reads \d"),
    ],
)
def test_files_of_an_older_gradsweep_are_refused_by_name(
    undisturbed: Path, faces_root: Path, tmp_path: Path, name: str, message: str
) -> None:
    out = tmp_path / "out"
    shutil.copytree(undisturbed, out)
    place = out / name
    if name == "pending.jsonl":
        place.write_text(json.dumps({"version": "1", "suggestion": {}}) + "\n")
    elif name == "sweep.json":
        write_json(place, unsealed(place.read_bytes()) | {"format": 1})
    elif name == "captures":
        for record in place.glob("*/record.json"):
            write_json(record, unsealed(record.read_bytes()) | {"format": 1})
        shutil.rmtree(out / "trials")
    else:
        part = next(place.glob("*.parquet"))
        pq.write_table(pq.read_table(part).replace_schema_metadata({"gradsweep": "1"}), part)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=message) as raised:
        run(faults.config(faces_root), out)
    assert "use another --out" in str(raised.value)
    if name != "captures":
        assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}, "untouched"


def test_a_killed_sweep_can_be_read_before_it_goes_on(undisturbed: Path, tmp_path: Path) -> None:
    """What is only in the log counts: rows, studies and pictures are those that the next start takes over."""
    rows = read_rows(undisturbed)
    studies = read_studies(undisturbed)
    out = tmp_path / "out"
    out.mkdir()
    journal = Journal(out)
    for study in studies.to_pylist():
        entry = typed(StudyRow, study | {"params": json.loads(study["params"])})
        journal.add(entry, allowed=lambda: None)
    pictures = read_images(undisturbed).to_pylist()
    for trial_id in dict.fromkeys(rows.column("trial_id").to_pylist()):
        mine = tuple(row for row in rows.to_pylist() if row["trial_id"] == trial_id)
        images = tuple(
            {name: value["bytes"] if isinstance(value, dict) else value for name, value in row.items()}
            for row in pictures
            if row["trial_id"] == trial_id
        )
        journal.add(FinishedTrial(trial_id, mine, images), allowed=lambda: None)
    shutil.copy(undisturbed / "sweep.json", out)
    with journal.path.open("a") as file:
        file.write('{"version": "2", "trial": "torn')
    assert read_rows(out).to_pylist() == rows.to_pylist()
    assert read_studies(out).equals(studies)
    assert read_images(out).to_pylist() == pictures
    assert summarize(out).equals(summarize(undisturbed))
