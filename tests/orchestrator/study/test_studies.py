"""Studies of whole sweeps: pruning, budgets of time, warm starts, and Optuna's copy of them."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from rich.console import Console
from ruamel.yaml import YAML

from fl_core.base.errors import InputError
from fl_core.base.shape import ImageShape
from fl_core.data.kinds.celeba import open_celeba
from orchestrator.analysis.summary import summary_lines
from orchestrator.capture.store import CaptureStore
from orchestrator.config.address import PASSWORD
from orchestrator.config.parse import cell_settings
from orchestrator.config.sweep import SweepConfig
from orchestrator.driver import sweep as driver
from orchestrator.driver.pace import Pace
from orchestrator.driver.plan import make_plan, plan_table
from orchestrator.driver.sweep import resolve, run_sweep
from orchestrator.report.report import write_report
from orchestrator.results.schema import trials_schema
from orchestrator.results.store import ResultStore
from orchestrator.runtime.progress import Silent
from orchestrator.study import dashboard_copy as module
from orchestrator.study.cell_study import CellStudy
from orchestrator.study.search import Study
from orchestrator.trial import run as trial_module
from orchestrator.trial.cell import Cell
from orchestrator.trial.rows import Released, rows_of
from orchestrator.trial.run import TrialResult, unfinished
from tests.support.forked import Child
from tests.support.shuffled import Shuffled
from tests.support.small import comparable, sweep, tree

SMALL: dict[str, Any] = {
    "study__suggestions": 3,
    "victims__test": 1,
    "attackers__0__attack__iterations": 2,
    "execution__controls": False,
}
STATES = {"ok": TrialState.COMPLETE, "failed": TrialState.FAIL, "pruned": TrialState.PRUNED}


class Heard(Silent):
    """Keeps what the sweep says, and counts its jobs."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.expected = self.done = 0

    def expect(self, total: int) -> None:
        self.expected = total

    def job_done(self, study: str, psnr: float | None) -> None:
        self.done += 1

    def message(self, text: str) -> None:
        self.said.append(text)


def run(config: SweepConfig, out: Path, heard: Heard | None = None) -> driver.Outcome:
    return run_sweep(config, out, address="serial", reporter=heard or Silent())


def journal(out: Path) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(out / module.JOURNAL_FILE)))


def assert_mirrored(
    out: Path, storage: optuna.storages.BaseStorage, *, name: str = "small", cells: int = 2
) -> None:
    """Optuna's copy says what the tables say: no more, no less, nothing left open."""
    table, rows = pd.read_parquet(out / "studies"), pd.read_parquet(out / "trials")
    values = rows.groupby("trial_id")["psnr"].mean()
    studies = dict(list(table.groupby("study")))
    assert len(studies) == cells
    summaries = {summary.study_name for summary in optuna.get_all_study_summaries(storage)}
    assert {f"{name}/{study}" for study in studies} <= summaries
    for study, recorded in studies.items():
        copy = optuna.load_study(study_name=f"{name}/{study}", storage=storage)
        assert len(copy.trials) == len(recorded)
        for trial, row in zip(copy.trials, recorded.to_dict("records"), strict=True):
            assert trial.number == row["suggestion"]
            assert trial.params == json.loads(row["params"])
            assert trial.state == STATES[row["state"]]
            if row["state"] == "ok":
                assert trial.value == pytest.approx(row["value"])
            assert trial.user_attrs["trial_ids"] == list(row["trial_ids"])
            there = {i: values[trial_id] for i, trial_id in enumerate(row["trial_ids"])}
            assert trial.intermediate_values == pytest.approx({i: v for i, v in there.items() if v == v})
        if (recorded["state"] == "ok").any():
            assert copy.best_trial.number == recorded.loc[recorded["value"].idxmax(), "suggestion"]


@pytest.fixture(scope="module")
def plain(faces_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("plain")
    run(sweep(faces_root), out)
    return out


PRUNED: dict[str, Any] = {"study__prune": 1.0, "study__suggestions": 8, "victims__tuning": 3}


@pytest.fixture(scope="module")
def pruned(faces_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pruned")
    run(sweep(faces_root, **PRUNED), out)
    return out


@pytest.mark.slow
def test_the_journal_says_what_the_studies_table_says(plain: Path) -> None:
    assert_mirrored(plain, journal(plain))


def test_the_journal_can_be_removed_and_is_written_again(
    faces_root: Path, plain: Path, tmp_path: Path
) -> None:
    out = tmp_path / "copy"
    shutil.copytree(plain, out)
    size = (out / module.JOURNAL_FILE).stat().st_size
    assert run(sweep(faces_root), out).fresh == 0
    assert (out / module.JOURNAL_FILE).stat().st_size == size, "a run that finds nothing to do writes nothing"
    (out / module.JOURNAL_FILE).unlink()
    assert run(sweep(faces_root, study__suggestions=6), out).fresh > 0
    assert_mirrored(out, journal(out))


def test_a_torn_line_at_the_end_of_the_journal_is_cut(faces_root: Path, plain: Path, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    shutil.copytree(plain, out)
    path = out / module.JOURNAL_FILE
    content = path.read_bytes()
    path.write_bytes(content[: content[:-1].rfind(b"\n") + 40])
    run(sweep(faces_root), out)
    assert_mirrored(out, journal(out))


GARBAGE = [
    "no journal\nat all\n",
    "null\n",
    "[]\n",
    "1\n",
    "{}\n",
    '{"op_code": 99, "worker_id": "x"}\n',
    '{"op_code": 4, "worker_id": "x"}\n',
    '{"op_code": 0, "worker_id": 3, "study_name": [], "directions": ["up"]}\n',
    "\0" * 80 + "\n",
]


@pytest.mark.parametrize("garbage", GARBAGE)
def test_a_damaged_journal_stops_the_copy_and_not_the_sweep(
    faces_root: Path, plain: Path, tmp_path: Path, garbage: str
) -> None:
    out, heard = tmp_path / "copy", Heard()
    shutil.copytree(plain, out)
    (out / module.JOURNAL_FILE).write_text(garbage)
    outcome = run(sweep(faces_root), out, heard)
    assert (outcome.fresh, outcome.failed) == (0, 0)
    (said,) = heard.said
    assert "\n" not in said
    assert f"Optuna's copy of the studies stops here: {out / module.JOURNAL_FILE} holds" in said
    assert "remove it" in said
    (out / module.JOURNAL_FILE).unlink()
    run(sweep(faces_root), out)
    assert_mirrored(out, journal(out))


def test_a_changed_value_in_the_journal_stops_the_copy(faces_root: Path, plain: Path, tmp_path: Path) -> None:
    out, heard = tmp_path / "copy", Heard()
    shutil.copytree(plain, out)
    path = out / module.JOURNAL_FILE
    changed, count = re.subn(r'"restarts":[12]\.0', '"restarts":7.0', path.read_text())
    assert count
    path.write_text(changed)
    assert run(sweep(faces_root), out, heard).failed == 0
    (said,) = heard.said
    assert "holds another study" in said
    assert "remove it" in said


@pytest.mark.parametrize("garbage", ["{not json\n", "null\n", '{"op_code": 4}\n'])
def test_a_journal_that_is_damaged_in_mid_run_stops_the_copy_and_not_the_sweep(
    faces_root: Path, tmp_path: Path, garbage: str
) -> None:
    class Vandal(Heard):
        def job_done(self, study: str, psnr: float | None) -> None:
            with (tmp_path / "out" / module.JOURNAL_FILE).open("a") as file:
                file.write(garbage)

    heard = Vandal()
    outcome = run(sweep(faces_root, **SMALL), tmp_path / "out", heard)
    assert outcome.failed == 0
    assert outcome.fresh == outcome.trials
    assert sum("stops here" in said for said in heard.said) == 1


@pytest.mark.slow
def test_the_journal_is_whole_after_a_killed_driver_resumes(faces_root: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "small.yaml", tmp_path / "out"
    changes = PRUNED | {"study__suggestions": 6, "victims__test": 1}
    YAML(typ="safe", pure=True).dump(tree(faces_root, **changes), file)
    arguments = ["sweep", str(file), "--out", str(out), "--address", "serial"]
    child = Child(arguments, tmp_path / "log")
    path, deadline = out / module.JOURNAL_FILE, time.monotonic() + 120
    # Both studies have been created, and three suggestions told.
    while time.monotonic() < deadline and not (path.is_file() and path.read_bytes().count(b"\n") >= 5):
        time.sleep(0.005)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    before = path.read_bytes()
    run(sweep(faces_root, **changes), out)
    assert path.read_bytes().startswith(before[: before.rfind(b"\n") + 1]), (
        "what is there is not written again"
    )
    assert_mirrored(out, journal(out))


def test_a_database_holds_the_same_and_another_folders_study_is_not_mixed_in(
    faces_root: Path, tmp_path: Path
) -> None:
    address = f"sqlite:///{tmp_path / 'studies.db'}"
    config = sweep(faces_root, study__storage=address, **SMALL)
    run(config, tmp_path / "out")
    assert not (tmp_path / "out" / module.JOURNAL_FILE).exists()
    assert_mirrored(tmp_path / "out", RDBStorage(address))
    with pytest.raises(
        InputError, match=r"already holds a study 'small/none/generic', and it is not the one of"
    ):
        run(config, tmp_path / "other")
    run(sweep(faces_root, study__storage=None, **SMALL), tmp_path / "other")
    assert not (tmp_path / "other" / module.JOURNAL_FILE).exists()
    fixed = sweep(faces_root, **SMALL, name="second", study__storage=address, attackers__0__search={})
    run(fixed, tmp_path / "third")
    assert len(optuna.get_all_study_summaries(address)) == 2, "an attacker without a search has no study"


def test_a_database_that_is_away_stops_the_copy_and_the_next_run_fills_it_in(
    faces_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, out, heard = tmp_path / "later", tmp_path / "out", Heard()
    address = f"sqlite:///{folder / 'studies.db'}"
    config = sweep(faces_root, study__storage=address, **SMALL)
    outcome = run(config, out, heard)
    assert outcome.failed == 0
    (said,) = heard.said
    assert "Optuna's copy of the studies stops here" in said
    assert "unable to open database file" in said
    assert "run it again" in said
    assert caplog.text.count("trying again") == 2
    folder.mkdir()
    assert run(config, out).fresh == 0
    assert_mirrored(out, RDBStorage(address))


@pytest.mark.parametrize("arrived", [False, True])
def test_a_write_that_fails_once_is_tried_again_and_never_doubled(
    faces_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arrived: bool
) -> None:
    real, calls = optuna.Study.add_trial, 0

    def shaky(self: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        nonlocal calls
        calls += 1
        if calls % 3 == 1:
            if arrived:
                real(self, trial)
            raise optuna.exceptions.StorageInternalError("the connection was closed")
        real(self, trial)

    monkeypatch.setattr(optuna.Study, "add_trial", shaky)
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: None)
    address, heard = f"sqlite:///{tmp_path / 'studies.db'}", Heard()
    run(sweep(faces_root, study__storage=address, **SMALL), tmp_path / "out", heard)
    assert calls == (6 if arrived else 9)
    assert not heard.said
    assert_mirrored(tmp_path / "out", RDBStorage(address))


def test_a_database_in_postgresql(faces_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sqlalchemy import URL, make_url

    named = os.environ.get("GRADSWEEP_TEST_POSTGRES")
    if not named:
        pytest.skip("GRADSWEEP_TEST_POSTGRES names no database: PostgreSQL is not checked")
    url = make_url(named)
    if url.password is not None:
        monkeypatch.setenv(PASSWORD, str(url.password))
    name = f"test-{uuid.uuid4().hex[:12]}"
    parts = {"host": url.host, "port": url.port, "database": url.database, "query": url.query}
    address = URL.create(url.drivername, url.username, **parts).render_as_string()
    config = sweep(faces_root, name=name, study__storage=address, **PRUNED)
    try:
        run(config, tmp_path / "out")
        assert run(config, tmp_path / "out").fresh == 0
        assert_mirrored(tmp_path / "out", RDBStorage(named), name=name)
        if url.password is not None:
            for path in (tmp_path / "out").rglob("*"):
                assert not path.is_file() or str(url.password).encode() not in path.read_bytes(), path
            heard = Heard()
            monkeypatch.setenv(PASSWORD, "wrong-" + str(url.password))
            monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: None)
            assert (
                run(sweep(faces_root, name="wrong", study__storage=address), tmp_path / "wrong", heard).failed
                == 0
            )
            (said,) = heard.said
            assert "stops here" in said
            assert str(url.password) not in said
    finally:
        for summary in optuna.get_all_study_summaries(named):
            if summary.study_name.startswith(f"{name}/"):
                optuna.delete_study(study_name=summary.study_name, storage=named)


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://me:s3cret@host/db",
        "postgresql+psycopg://me:s3/cr?et@host:5432/db",
        "postgresql://host/db?user=me&password=s3cret",
        "mysql://host/db?sslpwd=s3cret",
    ],
)
def test_a_password_in_the_sweep_file_is_refused_and_not_repeated(faces_root: Path, address: str) -> None:
    with pytest.raises(InputError, match=f"environment variable {PASSWORD}") as caught:
        sweep(faces_root, study__storage=address)
    assert "s3" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("studies.db", "address of a database"),
        ("redis://host/0", "SQLAlchemy"),
        ("nosuch://host/db", "SQLAlchemy"),
    ],
)
def test_a_storage_that_can_never_work_ends_the_sweep_at_once(
    faces_root: Path, tmp_path: Path, address: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run(sweep(faces_root, study__storage=address), tmp_path)


@pytest.mark.slow
def test_pruned_suggestions_leave_victims_out_and_cannot_win(pruned: Path) -> None:
    rows, studies = pd.read_parquet(pruned / "trials"), pd.read_parquet(pruned / "studies")
    counts = studies["trial_ids"].map(len)
    dropped = studies[studies["state"] == "pruned"]
    assert len(dropped) >= 2
    assert dropped["value"].isna().all()
    assert (counts[studies["state"] == "pruned"] < 3).all()
    assert (counts[studies["state"] == "ok"] == 3).all()
    tuned = rows[rows["phase"] == "tune"].drop_duplicates("trial_id")
    assert set(tuned["trial_id"]) == {trial_id for ids in studies["trial_ids"] for trial_id in ids}
    for row in dropped.to_dict("records"):
        # The rule, recomputed from the table: against the best of those that the lag lets it know.
        known = studies[(studies["study"] == row["study"]) & (studies["suggestion"] <= row["suggestion"] - 2)]
        best = known.loc[known["value"].idxmax()]
        psnr = tuned.set_index("trial_id")["psnr"]
        behind = [psnr[best["trial_ids"][i]] - psnr[trial_id] for i, trial_id in enumerate(row["trial_ids"])]
        means = [sum(behind[: k + 1]) / (k + 1) for k in range(len(behind))]
        assert means[-1] > 1.0
        assert all(mean <= 1.0 for mean in means[:-1])
    assert_mirrored(pruned, journal(pruned))
    write_report(pruned, summary_lines(pruned))


@pytest.mark.slow
@pytest.mark.parametrize(("capacity", "seed"), [(8, 2)])
def test_pruning_gives_the_serial_rows_with_any_number_of_workers(
    faces_root: Path, pruned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capacity: int, seed: int
) -> None:
    monkeypatch.setattr(driver, "make_executor", lambda *_, **__: Shuffled(capacity, seed))
    heard = Heard()
    outcome = run(sweep(faces_root, **PRUNED), tmp_path, heard)
    assert outcome.fresh == heard.done == heard.expected, "what was left out is no job that is still to come"
    pd.testing.assert_frame_equal(comparable(pruned), comparable(tmp_path))
    left, right = (pd.read_parquet(out / "studies") for out in (pruned, tmp_path))
    pd.testing.assert_frame_equal(left, right)
    assert_mirrored(tmp_path, journal(tmp_path))


def timed(seconds: float) -> Callable[..., TrialResult]:
    """The real trial, with a fixed time written into its result."""
    real = trial_module.run_trial

    def slow(*args: Any, **kwargs: Any) -> TrialResult:
        return dataclasses.replace(real(*args, **kwargs), seconds=seconds)

    return slow


def test_a_budget_of_seconds_is_the_recorded_time_and_a_resumed_sweep_has_what_is_left(
    faces_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two victims of 1 s each: with lag 2, suggestion n is asked while those up to n - 2 took less than 7 s.
    monkeypatch.setattr(trial_module, "run_trial", timed(1.0))
    timing = {"attackers__0__attack__iterations": 2, "execution__controls": False, "victims__test": 1}
    run(sweep(faces_root, study__seconds=7, **timing), tmp_path)
    studies = pd.read_parquet(tmp_path / "studies")
    assert studies.groupby("study").size().to_dict() == {"dp/generic": 5, "none/generic": 5}
    assert run(sweep(faces_root, study__seconds=7, **timing), tmp_path).fresh == 0
    heard = Heard()
    outcome = run(sweep(faces_root, study__seconds=9, **timing), tmp_path, heard)
    assert outcome.fresh >= 4
    assert heard.expected == outcome.trials
    more = pd.read_parquet(tmp_path / "studies")
    assert more.groupby("study").size().to_dict() == {"dp/generic": 6, "none/generic": 6}
    kept = more[more["suggestion"] < 5].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, studies)
    page = write_report(tmp_path, summary_lines(tmp_path)).read_text()
    assert "9 s of attack time (tpe), each on 2 tuning victims; the same in every cell" in page
    assert "not reproducible" in page
    for changes, message in (
        ({"study__seconds": 8}, r"study\.seconds was 9\.0 and may grow, not shrink to 8\.0"),
        ({}, r"study\.seconds was 9\.0 and is now null"),
    ):
        with pytest.raises(InputError, match=message):
            run(sweep(faces_root, **changes, **timing), tmp_path)


def test_gpu_seconds_need_a_gpu_and_rows_of_the_cpu_have_none(
    faces_root: Path, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"study\.gpu_seconds = 60\.0: this sweep runs on the cpu"):
        run(sweep(faces_root, study__gpu_seconds=60), tmp_path)
    with pytest.raises(
        InputError, match=r"execution\.precision = 'tf32': this sweep runs on cpu, and CUDA alone"
    ):
        resolve(sweep(faces_root, execution__precision="tf32"))
    with pytest.raises(
        InputError, match=r"execution\.programs = 'graphs': this sweep runs on cpu, and CUDA alone has graphs"
    ):
        resolve(sweep(faces_root, execution__programs="graphs"))
    with pytest.raises(
        InputError, match=r"programs = 'compiled': must be operations or graphs where precision is bf16"
    ):
        sweep(faces_root, execution__programs="compiled", execution__precision="bf16")
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(
        InputError,
        match=r"execution\.programs = 'compiled': .* C\+\+ compiler 'no-such-compiler' is not found; install",
    ):
        resolve(sweep(faces_root, execution__programs="compiled"))
    assert (pd.read_parquet(plain / "trials")["gpu_seconds"] == 0).all()


def test_gpu_seconds_are_seconds_times_the_share_of_a_gpu_and_spend_that_budget(
    faces_root: Path, tmp_path: Path
) -> None:
    config = sweep(faces_root, study__gpu_seconds=7)
    captures = CaptureStore(tmp_path / "captures", device=torch.device("cpu"), progress=lambda _: None)
    cell = Cell.prepare(
        cell_settings(config, config.cells[0]), open_celeba(faces_root, shape=ImageShape.square(16)), captures
    )
    attacker = config.attackers[0]
    study = CellStudy(cell, attacker, Study("none/generic", attacker.space, config.study, seed=0))
    released = Released(client=0, bytes_up=1, clip_factor=None)
    shares = []
    with ResultStore(tmp_path, trials_schema([attacker.space.every()])) as store:
        while specs := [spec for spec in study.advance(store) if spec.phase == "tune"]:
            for spec in specs:
                spec = dataclasses.replace(spec, device="cuda")
                result = dataclasses.replace(unfinished(spec, "RuntimeError: lost", packing=1), seconds=4.0)
                common: dict[str, Any] = {
                    "params": {},
                    "released": released,
                    "accuracy": None,
                    "provenance": {},
                }
                rows = rows_of(cell, spec, result, weights_accuracy=None, gpu_share=0.25, **common)
                shares.append(rows[0]["gpu_seconds"])
                study.settle(store, spec, [row | {"psnr": 10.0} for row in rows])
    assert set(shares) == {1.0}, "four seconds on a quarter of a GPU"
    assert study.study is not None
    assert study.study.told == 5, "two victims each: after 4 suggestions 8 of 7 GPU-seconds are spent"


def test_a_plan_says_the_budget_of_time(faces_root: Path) -> None:
    console = Console(record=True, width=120)
    plan = make_plan(sweep(faces_root, study__seconds=7200, victims__test=1), ["none"])
    console.print(plan_table(plan))
    row = next(line for line in console.export_text().splitlines() if line.startswith("none / generic"))
    assert re.split(r"  +", row)[:3] == ["none / generic", "7200 s", "?"]
    (line,) = plan.lines
    pace = Pace(weights=0.0, capture=0.0, capture_bytes=0, trials={"generic": 3.0})
    assert line.seconds(pace) == 7200 + 2 * 3.0, "the test victim is attacked, and so is noise in its place"


def with_different_bests(plain: Path, copy: Path) -> dict[str, Any]:
    """A copy of a finished sweep in which its cells have different winners; the winners by study.

    Studies of one space begin with the same suggestions, so they often end with the same winner.
    """
    shutil.copytree(plain, copy)
    for path in (copy / "studies").glob("*.parquet"):
        found = pq.read_table(path)
        table = found.to_pandas()
        table.loc[table["study"].eq("dp/generic") & table["suggestion"].eq(1), "value"] = 90.0
        table.loc[table["study"].eq("none/generic") & table["suggestion"].eq(2), "value"] = 90.0
        pq.write_table(pa.Table.from_pandas(table, schema=found.schema, preserve_index=False), path)
    return {
        study: json.loads(group.loc[group["value"].idxmax(), "params"])
        for study, group in pd.read_parquet(copy / "studies").groupby("study")
    }


@pytest.mark.slow
def test_the_best_of_another_sweep_is_tried_first(faces_root: Path, plain: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    best = with_different_bests(plain, source)
    cells = [*tree(faces_root)["cells"], {"name": "new", "differs": {"threat.labels": "known"}}]
    attackers = [*tree(faces_root)["attackers"], {**tree(faces_root)["attackers"][0], "name": "other"}]
    heard = Heard()
    small = {"cells": cells, "attackers": attackers, "victims__test": 1, "execution__controls": False}
    config = sweep(faces_root, **small, study__warm_start=str(source))
    run_sweep(config, out, address="serial", reporter=heard, cells=["n*"])
    assert heard.said == [
        f"generic starts from the best parameters in {source}",
        f"other starts cold: {source} has nothing of an attacker of this name",
    ]
    shutil.rmtree(source)
    run(config, out)
    first = {
        study: [json.loads(params) for params in group.sort_values("suggestion")["params"]]
        for study, group in pd.read_parquet(out / "studies").groupby("study")
    }
    assert first["none/generic"][0] == best["none/generic"]
    assert first["dp/generic"][0] == best["dp/generic"]
    assert first["new/generic"][:2] == [best["dp/generic"], best["none/generic"]]
    assert first["new/generic"][2] not in best.values()
    assert first["none/other"][0] not in best.values(), "the first that is drawn, which won nowhere"
    assert all(len(params) == 5 for params in first.values())


def test_a_warm_start_that_does_not_fit_is_refused(faces_root: Path, plain: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    with_different_bests(plain, source)
    for changes, message in (
        (
            {"attackers__0__search__lr__high": 0.0101},
            r"the best of .*/generic in .* outside the search space",
        ),
        (
            {"attackers__0__name": "else"},
            r"finished suggestion of none of the attackers else; it has: generic",
        ),
        ({"study__sampler": "grid"}, r"warm_start = .*: must be null with a grid"),
        (
            {"study__suggestions": 1, "cells": [{"name": "new"}]},
            r"has 2 sets of parameters for new/generic, which is more than study\.suggestions = 1",
        ),
    ):
        with pytest.raises(InputError, match=message):
            run(sweep(faces_root, study__warm_start=str(source), **changes), tmp_path)
    with pytest.raises(InputError, match=r"none of the attackers generic; it has: none"):
        run(sweep(faces_root, study__warm_start=str(tmp_path / "nowhere")), tmp_path)
