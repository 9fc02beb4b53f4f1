"""A results folder is of the pictures that it began with: other ones are refused by name, a moved folder is not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import ExifTags, Image

from fl_core.base.errors import InputError
from fl_core.data.kinds.celeba_folder import ATTRIBUTE_CSV, IMAGE_FOLDER, PARTITION_CSV
from orchestrator.analysis.summary import summarize
from orchestrator.config.sweep import SweepConfig
from orchestrator.driver.merge import merge_folders
from orchestrator.driver.sweep import Outcome, run_sweep
from orchestrator.io.files import unsealed
from orchestrator.results.folder import CLAIM
from orchestrator.runtime.progress import Reporter, Silent
from tests.support.results_folder import row, trial, write_folder
from tests.support.small import sweep

ATTACKERS = [{"name": "m", "attack": {"kind": "matching", "iterations": 2}}]
CELLS = [{"name": "none"}, {"name": "clip", "defense": [{"kind": "clip", "max_norm": 1.0}]}]


def small(root: Path | str, **changes: Any) -> SweepConfig:
    """Sixteen training pictures, four for validation, four public ones; three victims, two cells."""
    settings = {
        "data.train": 16,
        "data.valid": 4,
        "data.public": 4,
        "victims": {"tuning": 0, "test": 3},
        "execution": {"device": "cpu", "controls": False, "images": "none"},
        "cells": CELLS,
        "attackers": ATTACKERS,
    }
    return sweep(Path(root), **settings | changes)


def run(config: SweepConfig, out: Path, reporter: Reporter | None = None, cells: str = "*") -> Outcome:
    return run_sweep(config, out, address="serial", reporter=reporter or Silent(), cells=(cells,))


class Listening(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def message(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture(scope="module")
def done(faces_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished folder, never written to by a test."""
    out = tmp_path_factory.mktemp("done") / "out"
    assert run(small(faces_root), out).fresh == 6
    return out


@pytest.fixture
def faces(faces_root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(faces_root, tmp_path / "faces"))


@pytest.fixture
def out(done: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(done, tmp_path / "out"))


def without_note(out: Path) -> None:
    """As a version that noted no pictures left it."""
    claim = unsealed((out / CLAIM).read_bytes())
    del claim["data"]
    (out / CLAIM).write_text(json.dumps(claim))


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_bytes()
    assert old.encode() in text
    path.write_bytes(text.replace(old.encode(), new.encode(), 1))


def remove_first(root: Path) -> None:
    (root / IMAGE_FOLDER / "000001.jpg").unlink()
    for name in (ATTRIBUTE_CSV, PARTITION_CSV):
        lines = (root / name).read_text().splitlines(keepends=True)
        (root / name).write_text("".join(line for line in lines if not line.startswith("000001.jpg")))


def flip_label(root: Path) -> None:
    header, *rows = (root / ATTRIBUTE_CSV).read_text().splitlines()
    at = header.split(",").index("Male")
    values = rows[1].split(",")
    values[at] = "1" if values[at] == "-1" else "-1"
    (root / ATTRIBUTE_CSV).write_text("\n".join([header, rows[0], ",".join(values), *rows[2:]]) + "\n")


def exchange(root: Path) -> None:
    one, two = (root / IMAGE_FOLDER / name for name in ("000001.jpg", "000090.jpg"))
    one.write_bytes(two.read_bytes())


def reorder(root: Path) -> None:
    header, first, second, *rows = (root / ATTRIBUTE_CSV).read_text().splitlines()
    (root / ATTRIBUTE_CSV).write_text("\n".join([header, second, first, *rows]) + "\n")


def fewer_valid(root: Path) -> None:
    """All but three of the validation pictures become training pictures, behind those that are used."""
    text = (root / PARTITION_CSV).read_text()
    (root / PARTITION_CSV).write_text(text.replace(",1\n", ",0\n").replace("000075.jpg,0", "000075.jpg,1"))


CHANGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a picture less": (
        remove_first,
        r"split train: 16 pictures expected, 16 found; 000001\.jpg is gone, 000017\.jpg is new",
    ),
    "another label": (flip_label, r"split train: .*000002\.jpg is with another label"),
    "another picture": (exchange, r"split train: .*000001\.jpg is another picture under its old name"),
    "another order": (reorder, r"split train: .*they are in another order"),
    "fewer pictures": (
        fewer_valid,
        r"split valid: 4 pictures expected, 1 found; 000073\.jpg, 000074\.jpg, 000076\.jpg are gone",
    ),
    "another split": (
        lambda root: edit(root / PARTITION_CSV, "000085.jpg,2", "000085.jpg,0"),
        r"split test: .*000085\.jpg is gone",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_data_are_refused_by_name(faces: Path, out: Path, change: str) -> None:
    alter, told = CHANGES[change]
    alter(faces)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(
        InputError, match=rf"holds a sweep on other pictures than .*{told}.*bring the old data back"
    ):
        run(small(faces), out)
    with pytest.raises(InputError, match=told):
        run(small(faces, victims={"tuning": 0, "test": 4}), out)
    after = {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != ".lock"}
    assert after.items() <= before.items(), "the folder is as it was"


def test_a_moved_data_folder_is_the_same(
    faces: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By another path, from another folder, with other ends of lines, with more pictures that nothing uses."""
    for folder, root in ((tmp_path, "faces"), (faces, "."), (tmp_path / "out", "../faces")):
        monkeypatch.chdir(folder)
        assert run(small(root), out).fresh == 0
    elsewhere = faces.rename(tmp_path / "elsewhere")
    for name in (ATTRIBUTE_CSV, PARTITION_CSV):
        path = elsewhere / name
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert run(small(elsewhere), out).fresh == 0
    edit(elsewhere / ATTRIBUTE_CSV, "000072.jpg,-1", "000072.jpg,1")
    edit(elsewhere / IMAGE_FOLDER / "000072.jpg", "JFIF", "JFIX")
    assert run(small(elsewhere, victims={"tuning": 0, "test": 4}), out).fresh == 2
    assert pd.read_parquet(out / "trials")["data"].nunique() == 1
    assert (summarize(out)["n"] == 4).all()


def test_a_relative_root_that_leads_elsewhere_is_refused(
    faces: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other" / "faces"
    shutil.copytree(faces, other)
    remove_first(other)
    monkeypatch.chdir(other.parent)
    with pytest.raises(
        InputError, match=r"other pictures than faces/img_align_celeba has: .*000001\.jpg is gone"
    ):
        run(small("faces"), out)


def test_a_folder_without_a_note_is_taken_with_its_own_data_alone(faces: Path, out: Path) -> None:
    without_note(out)
    listening = Listening()
    assert run(small(faces), out, listening).fresh == 0
    assert sum("the 24 that are used now are noted there" in line for line in listening.said) == 1
    assert len(json.loads((out / CLAIM).read_bytes())["data"]) == 1
    assert run(small(faces), out, listening := Listening()).fresh == 0
    assert listening.said == []
    without_note(out)
    remove_first(faces)
    with pytest.raises(
        InputError, match=r"holds trials of celeba:\w{16}, and .* is celeba:\w{16}: its lists"
    ):
        run(small(faces), out)


def test_a_folder_without_a_note_may_name_lists_by_their_ends_of_lines(faces: Path, tmp_path: Path) -> None:
    """As older versions did: the trials of lists with CR LF are taken over."""
    for name in (ATTRIBUTE_CSV, PARTITION_CSV):
        path = faces / name
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    out, config = tmp_path / "out", small(faces)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("fl_core.data.kinds.celeba._canonical", Path.read_bytes)
        assert run(config, out).fresh == 6
    without_note(out)
    for _ in range(2):
        assert run(config, out).fresh == 0
    assert run(small(faces, victims={"tuning": 0, "test": 4}), out).fresh == 2
    assert pd.read_parquet(out / "trials")["data"].nunique() == 1


def test_turned_pictures_are_told_and_not_mixed_with_unturned_ones(faces: Path, tmp_path: Path) -> None:
    path = faces / IMAGE_FOLDER / "000003.jpg"
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    with Image.open(path) as file:
        file.save(path, exif=exif)
    listening, out = Listening(), tmp_path / "out"
    run(small(faces), out, listening)
    assert "1 pictures are turned as their EXIF orientation says, such as 000003.jpg" in listening.said
    without_note(out)
    with pytest.raises(InputError, match=r"did not turn pictures .*000003\.jpg"):
        run(small(faces), out)


def test_cells_may_have_data_of_their_own(faces: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(faces, other)
    remove_first(other)
    out = tmp_path / "out"
    cells = [
        {"name": "none"},
        {"name": "other", "differs": {"data.root": str(other)}},
        {"name": "smile", "differs": {"data.attribute": "Smiling"}},
        {"name": "fewer", "differs": {"data.train": 12}},
    ]
    config = small(faces, cells=cells)
    assert run(config, out, cells="none").fresh == 3
    assert run(config, out).fresh == 9
    assert run(config, out).fresh == 0
    assert len(json.loads((out / CLAIM).read_bytes())["data"]) == 4
    assert len(summarize(out)) == 4
    flip_label(other)
    with pytest.raises(
        InputError, match=r"other/img_align_celeba has: split train.*000003\.jpg is with another label"
    ):
        run(config, out)
    assert run(config, out, cells="smile").fresh == 0, "its data have not changed"


def test_a_cell_that_is_run_later_has_the_data_of_the_others(faces: Path, tmp_path: Path) -> None:
    out, cells = tmp_path / "out", [{"name": "none"}, {"name": "fewer", "differs": {"data.train": 12}}]
    run(small(faces, cells=cells), out, cells="none")
    remove_first(faces)
    with pytest.raises(InputError, match=r"12 pictures expected, 12 found; 000001\.jpg is gone"):
        run(small(faces, cells=cells), out, cells="fewer")


def parts(faces: Path, tmp_path: Path, alter: Callable[[Path], None] | None = None) -> list[Path]:
    """The two cells in folders of their own, the second one after the data were altered."""
    for name in ("none", "clip"):
        run(small(faces), tmp_path / name, cells=name)
        if alter and name == "none":
            alter(faces)
    return [tmp_path / "none", tmp_path / "clip"]


@pytest.mark.parametrize("change", CHANGES)
def test_folders_of_different_data_are_not_merged(faces: Path, tmp_path: Path, change: str) -> None:
    alter, told = CHANGES[change]
    folders = parts(faces, tmp_path, alter)
    with pytest.raises(InputError, match=rf"clip holds trials of other data than .*/none: {told}"):
        merge_folders(folders, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    for folder in folders:
        without_note(folder)
    if change != "another picture":  # Older folders say nothing of the pictures' content.
        with pytest.raises(InputError, match=r"celeba:\w{16} there and celeba:\w{16} here"):
            merge_folders(folders, tmp_path / "merged")


def test_a_merged_folder_keeps_the_note(faces: Path, tmp_path: Path) -> None:
    merge_folders(parts(faces, tmp_path), tmp_path / "merged")
    moved = faces.rename(tmp_path / "moved")
    assert run(small(moved), tmp_path / "merged").fresh == 0
    remove_first(moved)
    with pytest.raises(InputError, match=r"000001\.jpg is gone"):
        run(small(moved), tmp_path / "merged")


def test_folders_are_merged_from_wherever_their_data_lay(faces: Path, tmp_path: Path) -> None:
    run(small(faces), tmp_path / "none", cells="none")
    moved = faces.rename(tmp_path / "moved")
    run(small(moved), tmp_path / "clip", cells="clip")
    assert merge_folders([tmp_path / "none", tmp_path / "clip"], tmp_path / "merged").trials == 6


@pytest.mark.parametrize("cells", [("none", "none"), ("none", "dp")])
def test_a_report_on_trials_of_two_data_sets_is_refused(tmp_path: Path, cells: tuple[str, str]) -> None:
    trials = [
        trial(row(cell, victim=victim, data=f"celeba:{name}"))
        for cell, victim, name in zip(cells, (2, 3), ("aaaa", "bbbb"), strict=True)
    ]
    write_folder(tmp_path / "out", trials, config=sweep(tmp_path, attackers__0__search={}))
    with pytest.raises(InputError, match=r"trials of several data sets .*celeba:aaaa and celeba:bbbb"):
        summarize(tmp_path / "out")


def test_a_report_on_rows_of_another_folder_is_refused(faces: Path, out: Path, tmp_path: Path) -> None:
    remove_first(faces)
    run(small(faces), tmp_path / "two")
    shutil.rmtree(out / "trials")
    shutil.copytree(tmp_path / "two" / "trials", out / "trials")
    with pytest.raises(InputError, match=r"holds trials of celeba:\w+, but its sweep\.json is of celeba:\w+"):
        summarize(out)
    with pytest.raises(InputError, match=r"holds trials of celeba:\w+, but its sweep\.json is of celeba:\w+"):
        run(small(faces), out)


def test_a_damaged_note_is_named(faces: Path, out: Path) -> None:
    claim = unsealed((out / CLAIM).read_bytes())
    for wrong in ("x", [1], [{"fingerprint": 3}], [claim["data"][0] | {"pictures": {"train": [1]}}]):
        (out / CLAIM).write_text(json.dumps(claim | {"data": wrong}))
        for call in (lambda: run(small(faces), out), lambda: summarize(out)):
            with pytest.raises(InputError, match=r"sweep\.json is damaged \(data.*; restore it"):
                call()
