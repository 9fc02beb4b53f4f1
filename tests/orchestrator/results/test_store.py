"""The results folder: what is recorded survives crashes, and nothing a reader trips over is left."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from fl_core.base.errors import InputError
from orchestrator.config.space import Choice, FloatRange, IntRange
from orchestrator.results import journal, schema
from orchestrator.results import store as module
from orchestrator.results.schema import hp_column, trials_schema
from orchestrator.results.store import FinishedTrial, ResultStore, StudyRow, read_images, read_rows

SPACE = {
    "lr": FloatRange(kind="float", low=0.1, high=1.0),
    "objective.kind": Choice(kind="choice", choices=("l2",)),
}
COLUMNS = trials_schema([SPACE])


def trial(number: int, images: int = 1) -> FinishedTrial:
    rows = tuple(
        {
            "trial_id": f"t{number}",
            "image_id": f"{i}.jpg",
            "status": "ok",
            "psnr": 10.0 + number + i,
            "seconds": 1.0,
            "gpu_seconds": 0.0,
            "hp_lr": 0.5,
            "started_at": datetime(2026, 1, 1, tzinfo=UTC),
        }
        for i in range(images)
    )
    pictures = tuple(
        {"trial_id": f"t{number}", "image_id": f"{i}.jpg", "original": b"\x89PNG\0", "reconstruction": None}
        for i in range(images)
    )
    return FinishedTrial(f"t{number}", rows, pictures)


def filled(folder: Path, count: int) -> ResultStore:
    """A store with `count` trials that was never closed, as a kill leaves it (its lock is given back)."""
    store = ResultStore(folder, COLUMNS)
    store.__enter__()
    for number in range(count):
        store.add_trial(trial(number, images=2))
    store._lease._ended.set()
    store._lease._lock.release()
    return store


def test_what_a_killed_run_logged_is_taken_over(tmp_path: Path) -> None:
    filled(tmp_path, 5)
    assert not list((tmp_path / "trials").glob("part-*"))
    with (tmp_path / "pending.jsonl").open("a") as log:
        log.write('{"trial": "t9", "rows": [{"tri')
    with ResultStore(tmp_path, COLUMNS) as store:
        assert [store.rows(f"t{i}") is not None for i in range(5)] == [True] * 5
        assert store.rows("t9") is None, "a torn line is no result"
    rows = pd.read_parquet(tmp_path / "trials")
    assert len(rows) == 10
    assert rows["psnr"].tolist() == [10.0 + n + i for n in range(5) for i in range(2)]
    images = read_images(tmp_path).to_pylist()
    assert len(images) == 10
    assert images[0]["original"] == {"bytes": b"\x89PNG\0", "path": None}
    assert (tmp_path / "pending.jsonl").read_text() == ""


@pytest.mark.parametrize("crash_at", ["images", "trials", "log"])
def test_a_crash_in_the_middle_of_a_flush_doubles_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crash_at: str
) -> None:
    store = filled(tmp_path, 3)
    real_parquet, real_write = module._write_parquet, module.write_atomically

    def parquet(path: Path, table: Any, allowed: Any) -> None:
        if path.parent.name == crash_at:
            raise KeyboardInterrupt
        real_parquet(path, table, allowed)

    def write(path: Path, content: bytes, *, allowed: Any) -> None:
        if crash_at == "log" and path.name == "pending.jsonl":
            raise KeyboardInterrupt
        real_write(path, content, allowed=allowed)

    monkeypatch.setattr(module, "_write_parquet", parquet)
    monkeypatch.setattr(journal, "write_atomically", write)
    with pytest.raises(KeyboardInterrupt):
        store.flush()
    monkeypatch.undo()
    with ResultStore(tmp_path, COLUMNS):
        pass
    assert len(pd.read_parquet(tmp_path / "trials")) == 6
    assert len(read_images(tmp_path)) == 6


@pytest.mark.parametrize("crash_at", ["merged", "first delete", "second delete"])
def test_a_crash_in_the_middle_of_a_compaction_doubles_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crash_at: str
) -> None:
    with ResultStore(tmp_path, COLUMNS) as store:
        for number in range(4):
            store.add_trial(trial(number))
            store.flush()
        assert len(list((tmp_path / "trials").glob("part-*"))) == 4
        real_parquet, real_unlink, deleted = module._write_parquet, Path.unlink, 0

        def parquet(path: Path, table: Any, allowed: Any) -> None:
            if crash_at == "merged":
                raise KeyboardInterrupt
            real_parquet(path, table, allowed)

        def unlink(path: Path, missing_ok: bool = False) -> None:
            nonlocal deleted
            deleted += 1
            if deleted == {"first delete": 1, "second delete": 2}.get(crash_at):
                raise KeyboardInterrupt
            real_unlink(path, missing_ok=missing_ok)

        with monkeypatch.context() as patched:
            patched.setattr(module, "_write_parquet", parquet)
            patched.setattr(Path, "unlink", unlink)
            with pytest.raises(KeyboardInterrupt):
                store.compact()
    with ResultStore(tmp_path, COLUMNS) as store:
        assert len(read_rows(tmp_path)) == 4
        store.compact()
    assert len(list((tmp_path / "trials").glob("part-*"))) == 1
    assert sorted(pd.read_parquet(tmp_path / "trials")["trial_id"]) == ["t0", "t1", "t2", "t3"]
    assert not list((tmp_path / "trials").glob("_*"))


def test_files_being_written_are_invisible_to_readers(tmp_path: Path) -> None:
    with ResultStore(tmp_path, COLUMNS) as store:
        store.add_trial(trial(0))
    (tmp_path / "trials" / "_part-000009.parquet").write_bytes(b"half a file")
    assert len(pd.read_parquet(tmp_path / "trials")) == 1
    assert len(read_rows(tmp_path)) == 1


def test_a_second_result_for_a_trial_is_refused(tmp_path: Path) -> None:
    with ResultStore(tmp_path, COLUMNS) as store:
        store.add_trial(trial(0))
        with pytest.raises(ValueError, match="already has a result"):
            store.add_trial(trial(0))


def test_suggestions_keep_their_last_state(tmp_path: Path) -> None:
    row = StudyRow("c/a", 0, {"lr": 0.1, "init": "normal", "n": 3}, "asked", None, ("t0",))
    done = StudyRow("c/a", 0, row.params, "ok", 12.5, ("t0",))
    with ResultStore(tmp_path, COLUMNS) as store:
        store.add_suggestion(row)
        store.add_suggestion(done)
    table = pd.read_parquet(tmp_path / "studies")
    assert table["state"].tolist() == ["ok"]
    with ResultStore(tmp_path, COLUMNS) as store:
        assert store.suggestions("c/a") == {0: row.params}
        assert store.suggestions("other") == {}


def test_schema_is_base_columns_then_the_union_of_search_spaces() -> None:
    other = {"restarts": IntRange(kind="int", low=1, high=2)}
    both = trials_schema([SPACE, other])
    assert both.names[: len(schema.TRIALS_BASE)] == schema.TRIALS_BASE.names
    assert both.names[len(schema.TRIALS_BASE) :] == ["hp_lr", "hp_objective_kind", "hp_restarts"]
    assert hp_column("objective.kind") == "hp_objective_kind"
    clash = {"lr": Choice(kind="choice", choices=("a",))}
    with pytest.raises(InputError, match="'lr' is double in one attacker and string in another"):
        trials_schema([SPACE, clash])


def test_other_versions_other_columns_and_broken_files_are_refused_by_name(tmp_path: Path) -> None:
    with ResultStore(tmp_path, COLUMNS) as store:
        store.add_trial(trial(0))
    part = next((tmp_path / "trials").glob("part-*"))
    other = trials_schema([{"lr": Choice(kind="choice", choices=("a",))}])
    with pytest.raises(InputError, match="search spaces give: hp_lr is double there and string here"):
        ResultStore(tmp_path, other).__enter__()
    table = pq.read_table(part)
    pq.write_table(table.replace_schema_metadata({"gradsweep": "0"}), part)
    with pytest.raises(InputError, match="has schema version 0, this gradsweep writes and reads 4"):
        ResultStore(tmp_path, COLUMNS).__enter__()
    part.write_bytes(b"PAR1 nothing")
    with pytest.raises(InputError, match="is not a readable Parquet file"):
        ResultStore(tmp_path, COLUMNS).__enter__()
    # Each refusal gave the lock back.
    part.unlink()
    with ResultStore(tmp_path, COLUMNS):
        pass


def test_a_folder_from_before_a_column_is_read_and_gone_on_with(tmp_path: Path) -> None:
    with ResultStore(tmp_path, COLUMNS) as store:
        store.add_trial(trial(0))
    part = next((tmp_path / "trials").glob("part-*"))
    table = pq.read_table(part)
    pq.write_table(table.drop_columns(["psnr_groups", "gpu_seconds"]), part)
    with ResultStore(tmp_path, COLUMNS) as store:
        assert not store.empty
        store.add_trial(trial(1))
        store.compact()
    rows = read_rows(tmp_path)
    assert rows.num_rows == 2
    assert rows.schema.names == table.schema.names
    assert rows.column("gpu_seconds").null_count >= 1


def test_an_unwritable_folder_is_one_line(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(InputError, match=r"Cannot write to .*file/out.*use another --out"):
        ResultStore(blocked / "out", COLUMNS).__enter__()


def test_numbers_that_are_not_finite_survive_the_log(tmp_path: Path) -> None:
    store = filled(tmp_path, 0)
    (row,) = trial(0).rows
    store.add_trial(FinishedTrial("x", (row | {"trial_id": "x", "psnr": float("inf")},)))
    assert json.loads((tmp_path / "pending.jsonl").read_text())["rows"][0]["psnr"] == float("inf")
    with ResultStore(tmp_path, COLUMNS):
        pass
    assert pd.read_parquet(tmp_path / "trials")["psnr"].tolist() == [float("inf")]


def test_a_part_without_a_byte_is_named_and_one_without_a_row_is_no_result(tmp_path: Path) -> None:
    with ResultStore(tmp_path, COLUMNS) as store:
        store.add_trial(trial(0))
    part = next((tmp_path / "trials").glob("part-*.parquet"))
    rows = pq.read_table(part)
    (tmp_path / "trials" / "part-000098.parquet").write_bytes(b"")
    with pytest.raises(InputError, match=r"part-000098\.parquet is not a readable Parquet file"):
        read_rows(tmp_path)
    pq.write_table(rows.slice(0, 0), tmp_path / "trials" / "part-000098.parquet")
    assert read_rows(tmp_path).num_rows == 1
    pq.write_table(rows.slice(0, 0), part)
    with pytest.raises(InputError, match=r"holds no results: the Parquet files in .* have no rows"):
        read_rows(tmp_path)
