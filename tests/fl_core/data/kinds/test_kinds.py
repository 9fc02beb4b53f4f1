"""Data sets of every kind: what they hold, how they are split, and one line for each way that they can be wrong."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from fl_core.base.errors import InputError
from fl_core.base.shape import ImageShape
from fl_core.data.check import check_pictures, conversions, described
from fl_core.data.dataset import ImageDataset
from fl_core.data.drawn_splits import partition_by
from fl_core.data.kinds.arrays import open_arrays
from fl_core.data.kinds.class_folders import open_folder
from fl_core.data.kinds.parquet import open_parquet
from fl_core.data.kinds.torchvision_sets import known_sets, open_torchvision
from fl_core.data.splits import SeededSplit

SQUARE = ImageShape.square(8)
CLASSES = ("bird", "cat", "dog")


def pixels(index: int, height: int = 10, width: int = 12) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(index).integers(0, 256, (height, width, 3), dtype=np.uint8)


def in_folders(root: Path, *, per_class: int = 8, parts: tuple[str, ...] = ("",)) -> ImageDataset:
    for part in parts:
        for number, name in enumerate(CLASSES):
            folder = root / part / name
            folder.mkdir(parents=True)
            for index in range(per_class):
                Image.fromarray(pixels(10 * number + index)).save(folder / f"{index}.png")
    return open_folder(root, shape=SQUARE)


def in_arrays(root: Path, **changes: Any) -> ImageDataset:
    content: dict[str, Any] = {
        "images": np.stack([pixels(i) for i in range(24)]),
        "labels": np.arange(24) % 3,
        "classes": np.array(CLASSES),
    }
    root.mkdir(exist_ok=True)
    kept = {name: value for name, value in (content | changes).items() if value is not None}
    np.savez(root / "pictures.npz", **kept)
    return open_arrays(root, shape=SQUARE)


def encoded(index: int) -> bytes:
    import io

    content = io.BytesIO()
    Image.fromarray(pixels(index)).save(content, "PNG")
    return content.getvalue()


def in_parquet(root: Path, *, file: str = "data.parquet", **changes: Any) -> ImageDataset:
    columns: dict[str, Any] = {
        "image": [{"bytes": encoded(i), "path": f"{i}.png"} for i in range(24)],
        "label": [i % 3 for i in range(24)],
    }
    table = pa.table({name: value for name, value in (columns | changes).items() if value is not None})
    features = {"info": {"features": {"label": {"names": list(CLASSES), "_type": "ClassLabel"}}}}
    table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    root.mkdir(exist_ok=True)
    pq.write_table(table, root / file, row_group_size=7)
    return open_parquet(root, shape=SQUARE)


def in_torchvision(root: Path) -> ImageDataset:
    return open_torchvision(root, name="FakeData", shape=SQUARE)


KINDS: dict[str, Callable[[Path], ImageDataset]] = {
    "folder": in_folders,
    "arrays": in_arrays,
    "parquet": in_parquet,
    "torchvision": in_torchvision,
}


@pytest.mark.parametrize(
    "kind",
    # Importing torchvision takes ten seconds.
    [pytest.param(kind, marks=pytest.mark.slow if kind == "torchvision" else ()) for kind in KINDS],
)
def test_every_kind_keeps_the_contract(kind: str, tmp_path: Path) -> None:
    dataset = KINDS[kind](tmp_path / "set")
    assert len(dataset) == len(dataset.labels) == len(dataset.partition) == len(set(dataset.names.tolist()))
    assert int(dataset.labels.max()) < len(dataset.classes)
    splits = [dataset.split(name) for name in ("train", "valid", "test")]
    assert sorted(index for split in splits for index in split) == list(range(len(dataset)))
    assert len(set(dataset.labels[splits[0][:12]].tolist())) > 1, "the first pictures are of several classes"
    images, labels = dataset.batch(splits[0][:3])
    assert (images.shape, images.dtype, labels.dtype) == ((3, 3, 8, 8), torch.float32, torch.int64)
    assert images.min() >= -1
    assert images.max() <= 1
    assert torch.equal(dataset.image(splits[0][0]), images[0])
    assert torch.equal(dataset.batch([0], [True])[0], dataset.batch([0])[0].flip(-1))
    there = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(there.image(0), dataset.image(0))
    assert dataset.picture(0).digest == there.picture(0).digest != dataset.picture(1).digest
    assert list(check_pictures(dataset)) == []
    again = {"torchvision": in_torchvision}.get(kind)
    if again:
        assert again(tmp_path / "set").fingerprint == dataset.fingerprint


def test_folders_of_splits_are_the_splits_and_a_missing_one_is_taken_of_train(tmp_path: Path) -> None:
    dataset = in_folders(tmp_path, parts=("train", "test"))
    assert dataset.classes == CLASSES
    train, valid, test = (dataset.split(name) for name in ("train", "valid", "test"))
    assert (len(train), len(valid), len(test)) == (22, 2, 24)
    assert all(dataset.names[i].startswith("test/") for i in test)
    assert all(dataset.names[i].startswith("train/") for i in [*train, *valid])
    assert "valid is 10% of train by seed 0" in dataset.split_by


def test_a_seeded_split_depends_on_names_alone(tmp_path: Path) -> None:
    names = [f"{i}.png" for i in range(1000)]
    found = partition_by(SeededSplit(), names)
    assert np.bincount(found).tolist() == [800, 100, 100]
    backwards = partition_by(SeededSplit(), names[::-1])[::-1]
    assert (found == backwards).all()
    assert (found != partition_by(SeededSplit(seed=1), names)).mean() > 0.2


def test_labels_and_pictures_belong_together(tmp_path: Path) -> None:
    dataset = in_folders(tmp_path)
    for index in range(len(dataset)):
        number, row = str(dataset.names[index]).split("/")
        assert dataset.classes[int(dataset.labels[index])] == number
        expected = Image.fromarray(pixels(10 * CLASSES.index(number) + int(row.removesuffix(".png"))))
        whole = open_folder(tmp_path, shape=ImageShape(height=10, width=12), resize="none")
        found = ((whole.image(index) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
        assert (found == np.array(expected)).all()


def test_arrays_may_be_grey_and_name_their_splits(tmp_path: Path) -> None:
    grey = np.stack([pixels(i)[..., 0] for i in range(6)])
    split = np.array(["train", "train", "valid", "valid", "test", "test"])
    in_arrays(tmp_path, images=grey, labels=np.arange(6) % 2, split=split, classes=None)
    dataset = open_arrays(
        tmp_path / "pictures.npz", shape=ImageShape(channels=1, height=10, width=12), resize="none"
    )
    assert dataset.split("test") == [4, 5]
    assert torch.equal(dataset.image(0)[0], torch.from_numpy(grey[0]).float().div(255).sub(0.5).div(0.5))


def test_parquet_reads_class_names_and_splits_from_the_files(tmp_path: Path) -> None:
    in_parquet(tmp_path, file="train-00000-of-00001.parquet")
    dataset = in_parquet(tmp_path, file="test-00000-of-00001.parquet")
    assert dataset.classes == CLASSES
    assert len(dataset.split("test")) == 24
    assert len(dataset.split("train")) + len(dataset.split("valid")) == 24


def test_a_change_of_what_is_used_changes_the_fingerprint_or_the_digest(tmp_path: Path) -> None:
    first = in_folders(tmp_path / "a")
    second = in_folders(tmp_path / "b", per_class=7)
    assert first.fingerprint != second.fingerprint
    digest = first.picture(0).digest
    Image.fromarray(pixels(99)).save(tmp_path / "a" / first.names[0])
    assert open_folder(tmp_path / "a", shape=SQUARE).picture(0).digest != digest
    assert open_folder(tmp_path / "a", shape=ImageShape.square(9)).fingerprint != first.fingerprint


def test_conversions_are_counted(tmp_path: Path) -> None:
    dataset = in_folders(tmp_path)
    Image.new("CMYK", (9, 9)).save(tmp_path / "cat" / "printed.jpg")
    Image.new("RGBA", (9, 9)).save(tmp_path / "cat" / "clear.webp", lossless=True)
    Image.new("L", (9, 9)).save(tmp_path / "cat" / "grey.JPG", format="JPEG")
    dataset = open_folder(tmp_path, shape=SQUARE)
    assert len(dataset) == 27
    assert dict(conversions(dataset)) == {
        "CMYK converted to RGB": 1,
        "transparency laid on white": 1,
        "grey repeated in three channels": 1,
    }


def broken_picture(root: Path) -> ImageDataset:
    dataset = in_folders(root)
    (root / "cat" / "3.png").write_bytes(b"no picture")
    return dataset


def test_a_picture_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (problem,) = check_pictures(broken_picture(tmp_path))
    assert str(tmp_path / "cat" / "3.png") in problem
    assert "not a readable image (10 bytes" in problem
    (tmp_path / "cat" / "3.png").unlink()
    with pytest.raises(InputError, match="the image is gone"):
        in_list = list(check_pictures(open_folder(tmp_path, shape=SQUARE)))
        assert in_list == []
        broken = open_folder(tmp_path, shape=SQUARE)
        (tmp_path / str(broken.names[0])).unlink()
        broken.image(0)


def one_class(root: Path) -> None:
    (root / "cat").mkdir(parents=True)
    Image.fromarray(pixels(0)).save(root / "cat" / "0.png")
    open_folder(root, shape=SQUARE)


def loose(root: Path) -> None:
    root.mkdir()
    Image.fromarray(pixels(0)).save(root / "0.png")
    open_folder(root, shape=SQUARE)


def twice(root: Path) -> None:
    in_folders(root, parts=("train", "val", "valid"))


def stray(root: Path) -> None:
    in_folders(root, parts=("train", "vaild"))


def pickled(root: Path) -> None:
    root.mkdir()
    np.savez(root / "x.npz", images=np.array([{}], dtype=object), labels=np.zeros(1, dtype=int))
    open_arrays(root, shape=SQUARE)


def longer_than_memory(root: Path) -> None:
    root.mkdir()
    header = {"descr": "|u1", "fortran_order": False, "shape": (10**6, 10**6, 10**3)}
    with zipfile.ZipFile(root / "x.npz", "w") as content, content.open("images.npy", "w") as stream:
        np.lib.format.write_array_header_1_0(stream, header)
    open_arrays(root, shape=SQUARE)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda root: open_folder(root, shape=SQUARE), "no such data folder"),
        (one_class, "one class folder ('cat')"),
        (loose, "'0.png' lie in no class folder"),
        (twice, "both say 'valid'|all say 'valid'"),
        (stray, "Did you mean 'valid'"),
        (lambda root: in_arrays(root, images=np.zeros((3, 4, 4), dtype=np.float32)), "must be uint8"),
        (lambda root: in_arrays(root, labels=np.arange(23)), "24 images and 23 labels"),
        (lambda root: in_arrays(root, labels=-np.arange(24)), "integers from 0"),
        (lambda root: in_arrays(root, labels=np.arange(24) * 10**8, classes=None), "a label is 2300000000"),
        (
            lambda root: in_arrays(root, labels=np.full(24, 2**63, np.uint64), classes=None),
            f"a label is {2**63}",
        ),
        (lambda root: in_parquet(root, label=[10**9] * 24), "a label is 1000000000"),
        (lambda root: in_arrays(root, labels=None), "no array 'labels'"),
        (lambda root: in_arrays(root, label=np.arange(24)), "Did you mean 'labels'"),
        (lambda root: in_arrays(root, split=np.full(24, "trian")), "'trian'; must be train, valid or test"),
        (lambda root: in_arrays(root, classes=np.array(["a", "b"])), "one for each label up to 2"),
        (pickled, "plain arrays"),
        (longer_than_memory, "not a readable .npz file"),
        (
            lambda root: in_parquet(root, image=None, picture=[b""] * 24),
            "no column of pictures among label, picture",
        ),
        (lambda root: in_parquet(root, label=["cat"] * 24), "label holds 'cat'; must be integers"),
        (lambda root: in_parquet(root, label=[None] * 24), "label holds None"),
        (lambda root: open_torchvision(root, name="CIFAR01", shape=SQUARE), "Did you mean 'CIFAR10'"),
        (lambda root: open_torchvision(root, name="cifar10", shape=SQUARE), "Did you mean 'CIFAR10'"),
        (
            lambda root: open_torchvision(root, name="CocoDetection", shape=SQUARE),
            "Unknown set of torchvision",
        ),
        (lambda root: open_torchvision(root, name="CIFAR10", shape=SQUARE), r"set data\.download: true"),
    ],
)
def test_what_is_wrong_is_one_line(wrong: Callable[[Path], object], says: str, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=says.replace("(", r"\(").replace(")", r"\)").replace("[", r"\[")
    ) as caught:
        wrong(tmp_path / "set")
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_qmnist_hands_download_on_and_lists_more_than_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tmp_path / "QMNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "test"):
        images, labels = np.arange(4 * 28 * 28, dtype=np.uint8), np.zeros((4, 8), dtype=">i4")
        labels[:, 0] = [3, 1, 0, 2]
        head = struct.pack(">4i", 0x803, 4, 28, 28)
        (raw / f"qmnist-{part}-images-idx3-ubyte").write_bytes(head + images.tobytes())
        (raw / f"qmnist-{part}-labels-idx2-int").write_bytes(
            struct.pack(">3i", 0xC02, 4, 8) + labels.tobytes()
        )
    found = open_torchvision(tmp_path, name="QMNIST", shape=ImageShape(channels=1, height=28, width=28))
    assert found.labels.tolist() == [3, 1, 0, 2] * 2
    for name in ("QMNIST", "EMNIST"):
        with pytest.raises(InputError, match=r"set data\.download: true"):
            open_torchvision(tmp_path / "empty", name=name, shape=SQUARE)

    def fetch(self: object) -> None:
        raise RuntimeError("the network was asked")

    monkeypatch.setattr("torchvision.datasets.QMNIST.download", fetch)
    with pytest.raises(InputError, match="the network was asked"):
        open_torchvision(tmp_path, name="QMNIST", shape=SQUARE, download=True)


class _Opened:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.slow
def test_no_pickle_of_a_torchvision_set_is_opened_before_its_checksum(tmp_path: Path) -> None:
    base = tmp_path / "cifar-10-batches-py"
    base.mkdir()
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"]:
        (base / name).write_bytes(pickle.dumps(_Opened(tmp_path / "opened")))
    with pytest.raises(InputError, match="not found or corrupted"):
        open_torchvision(tmp_path, name="CIFAR10", shape=SQUARE)
    assert not (tmp_path / "opened").exists()
    with pytest.raises(InputError, match="Unknown set of torchvision 'LSUN'"):
        open_torchvision(tmp_path, name="LSUN", shape=SQUARE)


@pytest.mark.slow
def test_cifar_in_its_own_layout_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    base = tmp_path / CIFAR10.base_folder
    base.mkdir()
    sums = {}
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        held = {"data": np.full((2, 3072), 9, dtype=np.uint8), "labels": [1, 7]}
        (base / name).write_bytes(pickle.dumps(held))
        sums[name] = hashlib.md5((base / name).read_bytes(), usedforsecurity=False).hexdigest()
    meta = pickle.dumps({"label_names": [f"kind {i}" for i in range(10)]})
    (base / "batches.meta").write_bytes(meta)
    for part in ("train_list", "test_list"):
        pairs = [[name, sums[name]] for name, _ in getattr(CIFAR10, part)]
        monkeypatch.setattr(CIFAR10, part, pairs)
    digest = hashlib.md5(meta, usedforsecurity=False).hexdigest()
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": digest})
    found = open_torchvision(tmp_path, name="CIFAR10", shape=SQUARE)
    assert (len(found), found.classes[1], found.labels.tolist()[:2]) == (12, "kind 1", [1, 7])
    assert "torchvision's splits of CIFAR10" in found.split_by


def test_what_cannot_be_fetched_is_not_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="finds no ImageFolder") as caught:
        open_torchvision(tmp_path, name="ImageFolder", shape=SQUARE)
    assert "download" not in str(caught.value)


def test_torchvisions_names_are_known() -> None:
    assert {"CIFAR10", "CIFAR100", "MNIST", "SVHN", "FakeData", "Flowers102"} <= set(known_sets())


@pytest.mark.parametrize(("variable", "classes"), [("CIFAR_ROOT", 10), ("PHOTOS_ROOT", None)])
def test_real_class_folders(variable: str, classes: int | None) -> None:
    root = os.environ.get(variable)
    if not root:
        pytest.skip(f"{variable} is not set: no real class folders here")
    dataset = open_folder(Path(root), shape=ImageShape(height=48, width=32))
    assert classes in (None, len(dataset.classes))
    images, _ = dataset.batch(dataset.split("train", 4))
    assert images.shape == (4, 3, 48, 32)
    assert 0.1 < float(images.std()) < 1


def test_what_a_set_holds_is_said(tmp_path: Path) -> None:
    dataset = in_folders(tmp_path)
    Image.new("L", (9, 9)).save(tmp_path / "cat" / "grey.png")
    lines = described(open_folder(tmp_path, shape=SQUARE))
    assert lines[0] == "25 pictures, 3 classes: bird, cat, dog"
    assert lines[1].startswith("20 train, 2 valid, 3 test; from ")
    assert lines[2:] == ["1 pictures: grey repeated in three channels"]
    assert len(dataset) == 24


@pytest.mark.parametrize(("text", "size"), [("3x8x9", (3, 8, 9)), ("8x9", (3, 8, 9)), ("1x8x9", (1, 8, 9))])
def test_a_size_is_spelled_channels_first(text: str, size: tuple[int, int, int]) -> None:
    assert ImageShape.parse(text).size == size


@pytest.mark.parametrize("text", ["", "8", "2x8x8", "8x-1", "8*8", "1x2x3x4", "0x8"])
def test_what_is_no_size_is_one_line(text: str) -> None:
    with pytest.raises(InputError):
        ImageShape.parse(text)


def test_a_parquet_file_that_is_written_anew_is_read_anew(tmp_path: Path) -> None:
    before = in_parquet(tmp_path)
    first = before.picture(0)
    other = [{"bytes": encoded(100 + i), "path": f"{i}.png"} for i in range(24)]
    assert in_parquet(tmp_path, image=other).picture(0).digest != first.digest
