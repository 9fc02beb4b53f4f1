"""What `auto` means: the device and the faces that are there."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from fl_core.base.device import pick_device
from fl_core.base.errors import InputError
from fl_core.base.shape import ImageShape
from fl_core.data.kinds.celeba import open_celeba
from orchestrator.capture.datasets import open_data
from orchestrator.capture.places import check_data, check_there, resolve_kind
from orchestrator.config.parse import cell_settings
from orchestrator.config.sweep import CellConfig, DataConfig, SweepConfig


@pytest.mark.parametrize(
    ("cuda", "mps", "auto"),
    [(False, False, "cpu"), (True, False, "cuda"), (False, True, "mps"), (True, True, "mps")],
)
def test_devices(monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, auto: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert pick_device("auto").type == auto
    assert pick_device("cpu").type == "cpu"
    for name, present in (("cuda", cuda), ("mps", mps)):
        if present:
            assert pick_device(name).type == name
        else:
            with pytest.raises(InputError, match=f"Device '{name}' is not available here"):
                pick_device(name)
    with pytest.raises(InputError, match=r"Unknown device 'cudaa'. Did you mean 'cuda'"):
        pick_device("cudaa")


def quiet(_: str) -> None:
    """Nobody listens."""


def test_faces(tmp_path: Path, faces_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = DataConfig(synthetic_images=16)
    assert resolve_kind(dataclasses.replace(data, root=str(faces_root))).kind == "celeba"
    synthetic = resolve_kind(data)
    assert synthetic.kind == "synthetic"
    said: list[str] = []
    first = open_data(synthetic, ImageShape.square(16), progress=said.append)
    again = open_data(synthetic, ImageShape.square(16), progress=said.append)
    assert len(said) == 1
    assert "writing 16 synthetic faces" in said[0]
    assert len(first) == len(again) == 16
    assert first.fingerprint == again.fingerprint
    assert resolve_kind(data).kind == "synthetic", "what was written is not taken for CelebA"
    assert open_celeba(Path("data/synthetic_faces/seed0_num16")).fingerprint != first.fingerprint
    for default in ("data", "./data", "data/"):
        assert resolve_kind(dataclasses.replace(data, root=default)).kind == "synthetic"
    named = dataclasses.replace(data, root=str(tmp_path / "data"))
    assert resolve_kind(named).kind == "synthetic", (
        "a named folder that holds synthetic faces goes on with them"
    )


@pytest.mark.parametrize(
    ("root", "told"),
    [
        ("setts/faces", r"no such data folder in .*Did you mean sets/faces\?"),
        ("sets/FACE", r"Did you mean sets/faces\?"),
        ("sets/faces/img_align_celeba", r"is a part of a data folder: name .*/sets/faces instead"),
        ("sets", r"the data lie deeper: name sets/faces instead"),
        (".", r"the data lie deeper: name sets/faces instead"),
        ("sets/faces/list_attr_celeba.csv", r"this is a file and not a data folder"),
        ("empty", r"empty/img_align_celeba: no such folder; unpack"),
        ("~", r"/home/img_align_celeba: no such folder"),
        ("~/nothing", r"/home/nothing: no such data folder"),
        ("~nobody-of-this-name/x", r"no such home folder"),
        ("x" * 300, r"cannot be read \(File name too long\)"),
    ],
)
@pytest.mark.parametrize("kind", ["auto", "celeba"])
def test_a_named_folder_without_the_data_is_refused(
    tmp_path: Path, faces_root: Path, monkeypatch: pytest.MonkeyPatch, kind: Any, root: str, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    shutil.copytree(faces_root, tmp_path / "sets" / "faces")
    for name in ("empty", "home"):
        (tmp_path / name).mkdir()
    before = sorted(tmp_path.rglob("*"))
    config = SweepConfig(name="t", data=DataConfig(kind=kind, root=root))
    with pytest.raises(InputError, match=told):
        check_data(config.data, [cell_settings(config, cell) for cell in config.cells])
    with pytest.raises(InputError, match=told):
        open_data(resolve_kind(config.data), ImageShape.square(16), progress=quiet)
    assert sorted(tmp_path.rglob("*")) == before, "nothing was written"


@pytest.mark.parametrize("kind", ["folder", "arrays", "parquet"])
def test_what_may_not_be_looked_at_is_not_told_to_be_missing(kind: Any) -> None:
    data = DataConfig(kind=kind, root="x" * 300)
    with pytest.raises(InputError, match=r"cannot be read \(File name too long\)"):
        check_there(data)
    with pytest.raises(InputError, match=r"cannot be read \(File name too long\)"):
        open_data(data, ImageShape.square(16), progress=quiet)


def test_home_folders_are_found(tmp_path: Path, faces_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(faces_root, tmp_path / "faces")
    monkeypatch.chdir(tmp_path / "faces")
    data = resolve_kind(DataConfig(root="~/faces"))
    assert data.kind == "celeba"
    assert len(open_data(data, ImageShape.square(16), progress=quiet)) == 96
    assert not Path("~").exists()


def test_synthetic_faces_are_written_into_new_folders_alone(
    tmp_path: Path, faces_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "letter").touch()
    (tmp_path / "new").mkdir()

    def opened(root: str) -> int:
        data = DataConfig(kind="synthetic", root=root, synthetic_images=8)
        return len(open_data(data, ImageShape.square(16), progress=quiet))

    for root, told in (
        ("used", "a folder that holds something else"),
        (str(faces_root), "a folder that holds something else"),
        ("used/letter", "this is a file"),
        ("nwe/faces", "Did you mean .*/new"),
    ):
        with pytest.raises(InputError, match=told):
            opened(root)
    assert (opened("new"), opened("newer"), opened("data")) == (8, 8, 8)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "new", "newer", "used"]
    (tmp_path / "new" / "letter").touch()
    assert opened("new") == 8, "what is there is taken"


def test_a_cell_with_another_kind_of_data_says_so(
    tmp_path: Path, faces_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cell = CellConfig(name="real", differs={"data.root": str(faces_root)})
    config = SweepConfig(name="t", cells=(cell,))
    with pytest.raises(
        InputError, match=r"cells\.real\.differs: data\.root = .* means celeba data, where other cells"
    ):
        check_data(config.data, [cell_settings(config, cell) for cell in config.cells])
    settled = dataclasses.replace(cell, differs=cell.differs | {"data.kind": "celeba"})
    check_data(config.data, [cell_settings(config, settled)])


def test_real_faces_open_through_the_same_door(celeba_root: Path) -> None:
    data = resolve_kind(DataConfig(root=str(celeba_root)))
    assert data.kind == "celeba"
    dataset = open_data(data, ImageShape.square(64), progress=lambda _: None)
    images, labels = dataset.batch(dataset.split("test")[:64])
    assert images.shape == (64, 3, 64, 64)
    assert set(labels.tolist()) == {0, 1}
