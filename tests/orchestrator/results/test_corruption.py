"""Files of a results folder that are damaged at rest: the figures stay, or one line names the file and what helps."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from ruamel.yaml import YAML
from safetensors.torch import load_file, save_file

from fl_core.base.errors import InputError
from orchestrator.analysis.summary import summarize
from orchestrator.capture.datasets import open_data, with_classes
from orchestrator.capture.files import RECORD
from orchestrator.capture.store import Capture, CaptureSource, CaptureStore
from orchestrator.cli.main import execute
from orchestrator.config.parse import cell_settings, load_sweep
from orchestrator.driver.sweep import resolve, run_sweep
from orchestrator.io.files import unsealed, write_json
from orchestrator.io.parquet import parquet_bytes
from orchestrator.report import report
from orchestrator.results import lease
from orchestrator.results.journal import FinishedTrial, Journal
from orchestrator.results.store import ResultStore, read_images, read_rows, read_studies
from orchestrator.results.utility_files import UtilityResult, utilities
from orchestrator.runtime.progress import Silent
from orchestrator.study import utility_runs
from orchestrator.trial import cell as trial_cell
from orchestrator.trial.cell import Cell
from tests.support.small import comparable, tree

SETTINGS: dict[str, Any] = {
    "cells": [{"name": "none"}],
    "thresholds": [
        {
            "name": "noise",
            "defense": [{"kind": "noise", "sigma": 0.01}],
            "strength": {"path": "defense.0.sigma", "weak": 0.001, "strong": 1.0, "points": 2},
            "refine": 0,
        }
    ],
    "victims": {"tuning": 1, "test": 2},
    "study": {"suggestions": 2, "startup": 1, "lag": 1},
    "utility": {"train": 1000},
    "attackers__0__attack__iterations": 3,
    "capture__round": 1,
}

TRIALS = 3 * (2 + 2)

CHANGING = ["seconds", "cpu_seconds"]

Damage = Callable[[bytes], bytes | None]


def flipped(share: float) -> Damage:
    """One bit, at this share of the file."""

    def damage(content: bytes) -> bytes:
        place = int(share * len(content))
        return content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]

    return damage


def zeros(content: bytes) -> bytes:
    middle, width = len(content) // 2, min(64, len(content) // 4)
    return content[:middle] + bytes(width) + content[middle + width :]


BYTES: dict[str, Damage] = {
    "deleted": lambda _: None,
    "emptied": lambda _: b"",
    "cut": lambda content: content[: len(content) // 2],
    "zeros": zeros,
    **{f"bit {share}": flipped(share) for share in (0.02, 0.5, 0.98)},
}


def values(content: bytes) -> Iterator[tuple[str, bytes]]:
    """A JSON object that is no object any more, lacks a key, or holds another type under one; without its checksum."""
    for text in ("null", "[]", "1", "{}", "\xff"):
        yield text, text.encode("latin-1")
    plain = unsealed(content)
    for key, value in plain.items():
        yield f"no {key}", json.dumps({k: v for k, v in plain.items() if k != key}).encode()
        for other in (None, [1] if not isinstance(value, list) else {"a": 1}):
            yield f"{key} {other}", json.dumps(plain | {key: other}).encode()


def damaged(path: Path) -> Iterator[str]:
    """Damage the file in every way, one after the other; the name of each."""
    content = path.read_bytes()
    changed = [(name, damage(content)) for name, damage in BYTES.items()]
    changed += values(content) if path.suffix == ".json" else ()
    for name, after in changed:
        if after is None:
            path.unlink()
        else:
            path.write_bytes(after)
        yield name


@pytest.fixture(scope="module")
def quick() -> Iterator[None]:
    """Without pictures in the report, and without the training of minutes behind an accuracy."""
    found = UtilityResult(
        accuracy=0.75, low=0.7, high=0.8, majority=0.6, images=12, per_round=(0.6, 0.75), diverged=False
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(report, "figures", lambda _: [])
        patched.setattr(utility_runs, "run_utility", lambda *_, **__: found)
        patched.setattr(
            trial_cell, "_check_utility", lambda *_: None
        )  # The faces are fewer than such a run needs.
        yield


@pytest.fixture(scope="module")
def file(faces_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corruption")
    settings = tree(faces_root, **SETTINGS)
    YAML(typ="safe", pure=True).dump(settings, folder / "first.yaml")
    settings["study"]["warm_start"] = str(folder / "first")
    YAML(typ="safe", pure=True).dump(settings, folder / "sweep.yaml")
    return folder / "sweep.yaml"


def run(file: Path, out: Path) -> int:
    return execute(["sweep", str(file), "--out", str(out), "--address", "serial"])


@pytest.fixture(scope="module")
def whole(quick: None, file: Path) -> Path:
    """A finished sweep with everything that a results folder can hold."""
    assert run(file.with_name("first.yaml"), file.with_name("first")) == 0
    assert run(file, file.with_name("whole")) == 0
    return file.with_name("whole")


READ = [
    "sweep.json",
    "trials/part-*.parquet",
    "studies/studies.parquet",
    "images/part-*.parquet",
    "utility/*.json",
]
"""What a sweep and a report read."""

READ_BY_SWEEP = ["warm_start.json", "optuna.journal", "captures/weights/*.safetensors"]

DERIVED = ["summary.parquet", "thresholds.parquet"]

REMEDIES = ("remove it", "restore it", "run the sweep again", "run its sweep again", "use another --out")


def copied(whole: Path, out: Path) -> Path:
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(whole, out)
    return out


def assert_same_summary(out: Path, whole: Path) -> None:
    """The summary is that of the undamaged folder; the order is lost with `sweep.json`."""
    tables = [
        pd.read_parquet(folder / "summary.parquet")
        .drop(columns=CHANGING)
        .sort_values(["cell", "attacker"], ignore_index=True)
        for folder in (out, whole)
    ]
    pd.testing.assert_frame_equal(*tables)


def assert_same_rows(out: Path, whole: Path) -> None:
    """All that a summary follows from is that of the undamaged folder."""
    pd.testing.assert_frame_equal(comparable(out), comparable(whole))
    assert read_studies(out).equals(read_studies(whole))
    assert utilities(out) == utilities(whole)


def assert_same_figures(out: Path, whole: Path) -> None:
    assert_same_summary(out, whole)
    assert_same_rows(out, whole)


def assert_helpful(line: str, path: Path) -> None:
    """One line that names the file, or where it was, and what to do."""
    assert "\n" not in line
    assert str(path if path.exists() else path.parent) in line
    assert any(remedy in line for remedy in REMEDIES), line


@pytest.mark.slow
@pytest.mark.parametrize("name", [*READ, *READ_BY_SWEEP])
def test_a_sweep_on_a_damaged_file_ends_with_the_same_rows_or_names_it(
    whole: Path, file: Path, tmp_path: Path, name: str
) -> None:
    out = tmp_path / "out"
    path = out / max(whole.glob(name), key=lambda path: path.stat().st_size).relative_to(whole)
    for _ in damaged(copied(whole, out) / path):
        try:
            run_sweep(load_sweep(file), out, address="serial", reporter=Silent())
            assert_same_rows(out, whole)
        except InputError as error:
            assert_helpful(str(error), path)
        copied(whole, out)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*READ, *DERIVED])
def test_a_report_on_a_damaged_file_has_the_same_figures_or_names_it(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    out = copied(whole, tmp_path / "out")
    path = max(out.glob(name), key=lambda path: path.stat().st_size)
    for damage in damaged(path):
        code = execute(["report", str(out)])
        said = capsys.readouterr().err
        if code == 0:
            assert_same_summary(out, whole)
        else:
            assert code == 2, (damage, said)
            (line,) = (line for line in said.splitlines() if line.startswith("gradsweep: "))
            assert_helpful(line, path)


def test_damage_in_files_without_checksums_is_noticed_where_it_shows(whole: Path, tmp_path: Path) -> None:
    """As earlier versions wrote them: names and shapes of columns and tensors are checked, and text that is JSON."""
    out = copied(whole, tmp_path / "out")
    (part,) = out.glob("trials/part-*.parquet")
    table = pq.read_table(part)
    assert summarize(out)["n"].tolist() == [2, 2, 2]
    renamed = table.rename_columns(
        [name.replace("psnr_oracle", "psnr_oracld") for name in table.column_names]
    )
    text = table.set_column(
        table.column_names.index("differs"), "differs", pa.array(['{"a": '] * table.num_rows)
    )
    gaps = table.set_column(0, "trial_id", pa.array([None] * table.num_rows, pa.string()))
    retyped = table.set_column(table.column_names.index("psnr"), "psnr", pa.array(["1"] * table.num_rows))
    for changed, said in (
        (table.drop_columns(["phase"]), None),
        (text, "'differs' is not JSON"),
        (gaps, "'trial_id' has gaps"),
        (retyped, "'psnr' is string, not double"),
    ):
        pq.write_table(changed.replace_schema_metadata(table.schema.metadata), part)
        if said is None:
            assert read_rows(out).column("phase").null_count == TRIALS, (
                "a column that an earlier version lacks"
            )
            continue
        with pytest.raises(InputError, match=rf"{part.name} is damaged \(column {said}\); remove it to run"):
            read_rows(out)
    pq.write_table(renamed.replace_schema_metadata(table.schema.metadata), part)
    with pytest.raises(
        InputError, match="the column 'psnr_oracld', which this gradsweep does not know; use the"
    ):
        read_rows(out)


@pytest.fixture
def source(whole: Path, file: Path, tmp_path: Path) -> tuple[CaptureSource, list[str]]:
    """The captures of the folder's first cell, and what is said of them."""
    said: list[str] = []
    (config,) = with_classes([resolve(load_sweep(file))])
    faces = open_data(config.data, config.model.shape, progress=said.append)
    shutil.copytree(whole / "captures", tmp_path / "captures")
    store = CaptureStore(tmp_path / "captures", device=torch.device("cpu"), progress=said.append)
    return Cell.prepare(cell_settings(config, config.cells[0]), faces, store).source, said


def content(found: Capture) -> tuple[str, list[tuple[str, torch.Tensor]], Any]:
    record, truth = found.record, found.truth
    tensors = [*record.updates[0].tensors.items(), ("images", truth.images), ("labels", truth.labels)]
    plain = [dataclasses.replace(update, tensors={}, buffers={}) for update in record.updates]
    return found.key, tensors, (plain, record.shares, truth.ids, truth.clients)


@pytest.mark.parametrize("name", ["record.safetensors", "truth.safetensors", "truth.json", RECORD])
def test_a_damaged_capture_is_computed_again_with_a_line(
    source: tuple[CaptureSource, list[str]], name: str
) -> None:
    captures, said = source
    victim = captures.victims()[0]
    expected = content(captures.get(victim))
    path = captures.folder / expected[0] / name
    before = path.read_bytes()
    assert not said
    for damage in damaged(path):
        try:
            found = content(captures.get(victim))
        except InputError as error:
            assert f"{path} has format" in str(error), damage
            path.write_bytes(before)
            continue
        assert found[0] == expected[0]
        assert found[2] == expected[2], damage
        for (one, left), (other, right) in zip(found[1], expected[1], strict=True):
            assert one == other, damage
            assert torch.equal(left, right), (damage, one)
        if path.read_bytes() == before and damage not in ("deleted",):
            assert any(f"{path} is damaged" in line and "computed again" in line for line in said), damage
        said.clear()


@pytest.mark.slow
def test_a_sweep_with_damaged_captures_and_weights_ends_with_the_same_rows(
    whole: Path, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = copied(whole, tmp_path / "out")
    for path in (*out.glob("trials/part-*"), *out.glob("images/part-*")):
        path.unlink()
    for path in out.rglob("*.safetensors"):
        path.write_bytes(zeros(path.read_bytes()))
    assert run(file, out) == 0
    assert_same_figures(out, whole)
    said = capsys.readouterr().out
    assert said.count("it is computed again") >= 4
    pd.testing.assert_frame_equal(comparable(out), comparable(whole))


def test_weights_that_finished_trials_did_not_attack_are_made_again_or_refused(
    whole: Path,
    file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Files of earlier versions have no checksum: what the rows say of the weights finds their damage."""
    out = copied(whole, tmp_path / "out")

    def vandalize() -> None:
        for path in out.glob("captures/weights/*"):
            tensors = load_file(path)
            save_file({name: value + 1e-3 for name, value in tensors.items()}, path)

    vandalize()
    assert run(file, out) == 0
    assert_same_figures(out, whole)
    assert "they are made again" in capsys.readouterr().out
    monkeypatch.setattr(CaptureStore, "_train", lambda *_: vandalize())
    vandalize()
    assert run(file, out) == 2
    said = capsys.readouterr().err
    assert "holds other weights than the finished trials attacked" in said
    assert "restore the file, or use another --out" in said
    assert read_rows(out).num_rows == TRIALS


def killed(whole: Path, out: Path) -> Path:
    """The folder as a kill leaves it: everything in the log. Its path."""
    copied(whole, out)
    rows, images = read_rows(whole).to_pylist(), read_images(whole).to_pylist()
    for path in (*out.glob("trials/part-*"), *out.glob("images/part-*")):
        path.unlink()
    journal = Journal(out)
    for row in rows:
        mine = tuple(
            {name: value["bytes"] if isinstance(value, dict) else value for name, value in image.items()}
            for image in images
            if image["trial_id"] == row["trial_id"]
        )
        journal.add(FinishedTrial(row["trial_id"], (row,), mine), allowed=lambda: None)
    return journal.path


def line_damages(line: bytes) -> Iterator[bytes]:
    plain = unsealed(line)
    yield from (b"null", b"[]", b"1", b"\xff\x00", line[: len(line) // 2], zeros(line))
    yield from (flipped(share)(line) for share in (0.1, 0.5, 0.9))
    for key in plain:
        for changed in (
            {k: v for k, v in plain.items() if k != key},
            plain | {key: None},
            plain | {key: [1]},
        ):
            yield json.dumps(changed).encode()
    (row,) = plain["rows"]
    for changed in ({}, row | {"psnr": "x"}, row | {"started_at": "noon"}, row | {"trial_id": "other"}):
        yield json.dumps(plain | {"rows": [changed]}).encode()


def test_a_damaged_line_of_the_log_runs_its_trial_again(
    whole: Path, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = killed(whole, tmp_path / "out")
    log = path.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(line_damages(log[4][:-1])):
        path.write_bytes(b"".join([*log[:4], line + b"\n", *log[5:]]))
        with pytest.raises(
            InputError, match=r"pending.jsonl (is damaged \(line 5: |has schema version)"
        ) as raised:
            read_rows(path.parent)
        assert "\n" not in str(raised.value)
        found = (
            list(Journal(path.parent).entries(mend=True))
            if "is damaged (line" in str(raised.value)
            else log[1:]
        )
        assert len(found) == TRIALS - 1, number
    path.write_bytes(b"".join([*log[:4], b"null\n", *log[5:]]))
    assert run(file, path.parent) == 0
    assert_same_figures(path.parent, whole)
    assert "12 trials, 1 of them run now, 0 failed" in capsys.readouterr().out


def test_a_log_of_an_earlier_version_is_read(whole: Path, file: Path, tmp_path: Path) -> None:
    path = killed(whole, tmp_path / "out")
    plain = [json.dumps(unsealed(line)) for line in path.read_bytes().splitlines()]
    path.write_text("".join(f"{line}\n" for line in plain))
    assert read_rows(path.parent).to_pylist() == read_rows(whole).to_pylist()


@pytest.mark.parametrize(
    "content", [b"", b"\xff\x00", b"null", b"[1]", b'{"machine": 3}', b'{"machine": {"host": []}}']
)
def test_a_garbage_owner_file_is_taken_over(
    whole: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.setattr(lease, "SILENCE", 0.01)
    monkeypatch.setattr(lease, "BEAT", 0.02)
    out = tmp_path / "out"
    out.mkdir()
    (out / ".owner-000007.json").write_bytes(content)
    (out / ".owner-.json").write_bytes(content)
    (out / ".owner-1 (1).json").write_bytes(content)
    holder = lease.Lease(out)
    holder.acquire()
    assert [path.name for path in out.glob(".owner-00*")] == [".owner-000008.json"]
    holder.check()
    holder.release()


def split(whole: Path, out: Path) -> tuple[Path, Path]:
    """The folder with its trials in two parts."""
    copied(whole, out)
    (part,) = out.glob("trials/part-*")
    table = pq.read_table(part)
    parts = part.with_name("part-000090.parquet"), part.with_name("part-000091.parquet")
    for path, piece in zip(parts, (table.slice(0, 4), table.slice(4)), strict=True):
        path.write_bytes(parquet_bytes(piece))
    part.unlink()
    return parts


def test_copies_of_parts_are_not_counted(
    whole: Path, file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    _, second = split(whole, out)
    copies = [
        second.with_name(name)
        for name in ("part-000091 (1).parquet", "part-91.parquet", "part-000091.parquet~")
    ]
    copies.append(out / "images" / "part-000001 copy.parquet")
    for path in copies:
        shutil.copy(second, path)
    assert read_rows(out).num_rows == TRIALS
    assert run(file, out) == 0
    assert_same_summary(out, whole)
    assert all(f"{path} is not a file of gradsweep and does not count" in caplog.text for path in copies)


def test_a_trial_in_two_parts_is_refused_with_both_names(
    whole: Path, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    _, second = split(whole, out)
    copy = second.with_name("part-000099.parquet")
    shutil.copy(second, copy)
    for command in (["report", str(out)], ["sweep", str(file), "--out", str(out), "--address", "serial"]):
        assert execute(command) == 2
        said = capsys.readouterr().err
        assert f"{copy} and {second} both hold trial" in said
        assert "remove" in said
    copy.unlink()
    assert run(file, out) == 0
    assert_same_figures(out, whole)


def test_the_plan_of_a_merge_that_is_damaged_removes_no_trial(
    whole: Path, file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for damaged_part in (False, True):
        first, second = split(whole, out)
        merged = first.with_name("part-000092.parquet")
        shutil.copy(next(whole.glob("trials/part-*")), merged)
        plan = merged.with_name("_compaction.json")
        write_json(plan, {"merged": merged.name, "replaces": [first.name, second.name]})
        assert read_rows(out).num_rows == TRIALS
        if damaged_part:
            merged.write_bytes(zeros(merged.read_bytes()))
            with pytest.raises(InputError, match=rf"{merged.name} is not a readable Parquet file"):
                ResultStore(out, read_rows(whole).schema).__enter__()
            assert first.exists()
            assert second.exists()
            continue
        for _ in damaged(plan):
            if not plan.exists():
                with pytest.raises(InputError, match="both hold trial"):
                    read_rows(out)
                continue
            with pytest.raises(InputError, match=rf"{plan} is damaged .* remove it"):
                read_rows(out)
            with pytest.raises(InputError, match=rf"{plan} is damaged .* remove it"):
                ResultStore(out, read_rows(whole).schema).__enter__()
        assert first.exists()
        assert second.exists()
        write_json(plan, {"merged": merged.name, "replaces": [first.name, second.name]})
        assert run(file, out) == 0
        assert_same_figures(out, whole)
        assert [path.name for path in out.glob("trials/*")] == [merged.name]
