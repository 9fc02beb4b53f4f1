"""How a sweep stands is told from its folder alone, whoever wrote it and however that ended."""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fl_core.base.decibels import EXACT_DB
from orchestrator.config.sweep import SweepConfig
from orchestrator.living.status import Status, read_status
from orchestrator.living.watch import line, watch_sweep
from orchestrator.results.folder import claim_folder
from orchestrator.results.lease import SILENCE, Lease
from orchestrator.runtime.terminal import console
from tests.support.command import gradsweep, refused
from tests.support.paths import ROOT
from tests.support.results_folder import failed_row, row, suggestion, trial, write_folder
from tests.support.small import sweep


@pytest.fixture
def config() -> SweepConfig:
    """Two cells, an attacker with five suggestions on two tuning victims, three test victims."""
    return sweep(Path("nowhere"))


def tuned(count: int, cell: str = "none") -> list[Any]:
    """The tuning trials of so many suggestions."""
    return [
        trial(row(cell, victim, 12.0, phase="tune", suggestion=number))
        for number in range(count)
        for victim in (0, 1)
    ]


def told(count: int, cell: str = "none") -> list[Any]:
    """So many suggestions, each better than the one before."""
    found = [suggestion(number, 10.0 + number, f"{cell}/generic") for number in range(count)]
    return [type(one)(one.study, one.suggestion, {}, "ok", one.value, ("a", "b")) for one in found]


def own(folder: Path, *, silent: float = 0.0, **changes: Any) -> None:
    """Let the folder name an owner that gave its last sign of life so many seconds ago."""
    said = {"machine": {"host": "elsewhere", "boot": "b"}, "process": 4, "since": "2026-01-02T03:00:00+00:00"}
    path = folder / ".owner-000007.json"
    path.write_text(json.dumps(said | changes))
    os.utime(path, (time.time() - silent,) * 2)


def test_counts_are_those_of_the_sweep_that_is_noted(config: SweepConfig, tmp_path: Path) -> None:
    tests = [trial(row("none", victim, psnr, suggestion=4)) for victim, psnr in ((2, 15.0), (3, 18.0))]
    folder = write_folder(tmp_path, [*tuned(5), *tests], suggestions=told(5), config=config)
    status = read_status(folder)
    assert status.state == "stopped"
    assert (status.trials.done, status.trials.planned, status.failed) == (12, 2 * (5 * 2 + 3), 0)
    none, dp = status.cells
    assert (none.tuning.done, none.tuning.planned, none.test.done, none.test.planned) == (10, 10, 2, 3)
    assert (none.best_tuning_psnr, none.mean_test_psnr) == (14.0, 16.5)
    assert (dp.tuning.done, dp.best_tuning_psnr, dp.mean_test_psnr) == (0, None, None)
    assert status.resume == f"gradsweep retry {folder}"


def test_a_victims_images_count_as_one_and_exact_ones_are_finite(config: SweepConfig, tmp_path: Path) -> None:
    batch = trial(row(psnr=10.0, image_id="a", suggestion=0), row(psnr=20.0, image_id="b", suggestion=0))
    exact = trial(row(victim=3, psnr=float("inf"), suggestion=0))
    folder = write_folder(tmp_path, [*tuned(1), batch, exact], suggestions=told(1), config=config)
    assert read_status(folder).cells[0].mean_test_psnr == pytest.approx((15.0 + EXACT_DB) / 2)


def test_failures_are_grouped_by_what_differs_in_numbers_alone(config: SweepConfig, tmp_path: Path) -> None:
    errors = ["out of memory with 8 restarts", "out of memory with 4 restarts", "the file is gone"]
    trials = [trial(failed_row("dp", victim, error)) for victim, error in enumerate(errors, start=2)]
    status = read_status(write_folder(tmp_path, trials, config=config))
    assert [(failure.count, failure.error) for failure in status.failures] == [(2, errors[0]), (1, errors[2])]
    assert status.failures[0].trial == "dp-generic-test-None-2"
    assert status.failures[0].cells == ("dp",)
    assert status.failed == 3


@pytest.mark.parametrize(
    ("silent", "state"), [(1.0, "running"), (SILENCE + 5, "dead")], ids=["sign of life", "silent"]
)
def test_an_owner_elsewhere_lives_for_as_long_as_it_gives_signs(
    silent: float, state: str, config: SweepConfig, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path, tuned(1), suggestions=told(1), config=config)
    own(folder, silent=silent)
    status = read_status(folder)
    assert status.state == state
    assert status.driver is not None
    assert (status.driver.host, status.driver.process) == ("elsewhere", 4)
    assert (status.resume is not None) == (state == "dead")


def test_an_owner_here_is_dead_as_soon_as_its_process_is_gone(config: SweepConfig, tmp_path: Path) -> None:
    folder = write_folder(tmp_path, tuned(1), suggestions=told(1), config=config)
    lease = Lease(folder)
    lease.acquire()
    assert read_status(folder).state == "running"
    path = next(folder.glob(".owner-*.json"))
    said = json.loads(path.read_text())
    path.write_text(json.dumps(said | {"process": 2**22 + 1}))  # More than the kernel gives out.
    assert read_status(folder).state == "dead"
    lease.release()
    assert read_status(folder).state == "stopped"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"machine": 3, "process": -1, "since": "soon"}'])
def test_an_owner_file_that_says_nothing_is_no_traceback(
    text: str, config: SweepConfig, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path, tuned(1), suggestions=told(1), config=config)
    (folder / ".owner-000001.json").write_text(text)
    driver = read_status(folder).driver
    assert driver is not None
    assert (driver.process, driver.since) == (None, None)


def test_the_pace_is_that_of_the_driver_at_work(config: SweepConfig, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    old = [
        trial(row(victim=victim, suggestion=0, started_at=now - timedelta(days=1))) for victim in (2, 3, 4)
    ]
    starts = [now - timedelta(seconds=120 - 30 * i) for i in range(4)]
    new = [
        trial(row(victim=i % 2, phase="tune", suggestion=i // 2, started_at=start))
        for i, start in enumerate(starts)
    ]
    folder = write_folder(tmp_path, [*old, *new], suggestions=told(2), config=config)
    assert read_status(folder).rate_per_minute is None
    own(folder, since=(now - timedelta(seconds=130)).isoformat())
    status = read_status(folder)
    assert status.rate_per_minute == pytest.approx(2.0, rel=0.2)
    assert status.seconds_left == pytest.approx((26 - 7) * 30, rel=0.2)


def test_a_log_line_that_is_being_written_is_no_warning(
    config: SweepConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_folder(tmp_path, tuned(1), suggestions=told(1), config=config)
    (folder / "pending.jsonl").write_bytes(b'{"version": "4", "trial": "ab')
    done = gradsweep("status", folder)
    assert done.returncode == 0
    assert "2/26 trials" in done.stdout
    assert not caplog.records


def test_a_folder_without_trials_yet(config: SweepConfig, tmp_path: Path) -> None:
    claim_folder(tmp_path, config)
    assert read_status(tmp_path).state == "stopped"
    assert read_status(tmp_path).trials.planned == 26
    own(tmp_path)
    assert read_status(tmp_path).state == "starting"
    (tmp_path / "sweep.json").unlink()
    status = read_status(tmp_path)
    assert (status.state, status.sweep, status.cells) == ("starting", None, ())


def test_nothing_in_the_folder_is_touched(config: SweepConfig, tmp_path: Path) -> None:
    folder = write_folder(tmp_path, tuned(1), suggestions=told(1), config=config)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert gradsweep("status", folder, "--json").returncode == 0
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize("command", ["status", "watch"])
def test_what_is_no_results_folder_is_refused(command: str, tmp_path: Path) -> None:
    (tmp_path / "quickstart").mkdir()
    refused(gradsweep(command, tmp_path / "quickstrat"), "is not there", "Did you mean 'quickstart'?")
    refused(gradsweep(command, tmp_path / "quickstart"), "holds no sweep", "sweep.json is missing")
    (tmp_path / "file").write_text("")
    refused(gradsweep(command, tmp_path / "file"), "is no folder")


def test_a_damaged_folder_is_one_line(config: SweepConfig, tmp_path: Path) -> None:
    folder = write_folder(tmp_path, tuned(1), suggestions=told(1), config=config)
    next((folder / "trials").glob("*.parquet")).write_bytes(b"PAR1")
    refused(gradsweep("status", folder), "not a readable Parquet file", "remove it")


def keys(content: object) -> set[str]:
    if isinstance(content, list | tuple):
        return {key for entry in content for key in keys(entry)}
    if isinstance(content, dict):
        return set(content) | keys(list(content.values()))
    return set()


def test_every_key_is_documented_and_none_other(config: SweepConfig, tmp_path: Path) -> None:
    folder = write_folder(tmp_path, [*tuned(1), trial(failed_row())], suggestions=told(1), config=config)
    own(folder)
    page = (ROOT / "docs" / "living.md").read_text(encoding="utf-8")
    section = page.split("## The keys of `status --json`")[1].split("\n## ")[0]
    documented = {line.split("`")[1] for line in section.splitlines() if line.startswith("| `")}
    printed = json.loads(gradsweep("status", folder, "--json").stdout)
    assert {name.rpartition(".")[2].removesuffix("[]") for name in documented} == keys(printed)


class Folder:
    """A sweep that goes on while somebody sleeps."""

    def __init__(self, folder: Path, config: SweepConfig) -> None:
        self.folder, self.config, self.slept = folder, config, 0

    def sleep(self, _: float) -> None:
        self.slept += 1
        if self.slept == 2:
            trials = [trial(row(cell, v, suggestion=0)) for cell in ("none", "dp") for v in (2, 3, 4)]
            more = [entry for cell in ("none", "dp") for entry in tuned(5, cell)]
            states = [entry for cell in ("none", "dp") for entry in told(5, cell)]
            best = [type(one)(one.study, 0, {}, "ok", 99.0, ("a", "b")) for one in states[::5]]
            for path in self.folder.glob(".owner-*.json"):
                path.unlink()
            for path in self.folder.rglob("*.parquet"):
                path.unlink()
            write_folder(self.folder, [*more, *trials], suggestions=[*states, *best], config=self.config)


def test_watching_in_a_log_prints_lines_until_the_sweep_ends(
    config: SweepConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_folder(tmp_path, tuned(1), suggestions=told(1), config=config)
    own(folder)
    last = watch_sweep(folder, console(), sleep=Folder(folder, config).sleep)
    printed = capsys.readouterr().out
    assert last.state == "finished"
    assert "running: 2/26 trials, ? left, best none / generic 10.0 dB" in printed
    assert "26/26 trials" in printed
    assert printed.count("running") == 2


def test_watching_what_nobody_works_on_says_what_goes_on(config: SweepConfig, tmp_path: Path) -> None:
    folder = write_folder(tmp_path, tuned(1), suggestions=told(1), config=config)
    own(folder, silent=90.0)
    done = gradsweep("watch", folder)
    assert done.returncode == 75
    assert "The driver is gone; its last sign of life is 1:3" in done.stdout
    assert f"gradsweep retry {folder}" in done.stdout


def test_the_line_says_a_kind_of_failure_by_its_number(config: SweepConfig, tmp_path: Path) -> None:
    status: Status = read_status(write_folder(tmp_path, [trial(failed_row())], config=config))
    assert "1 failed" in line(status)
