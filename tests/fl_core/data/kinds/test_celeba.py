"""The CelebA loader: layouts, decoding, splits, and one message per way a data folder can be wrong."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from torchvision.transforms import v2

from fl_core.base.errors import InputError
from fl_core.base.shape import ImageShape
from fl_core.data.dataset import ImageDataset
from fl_core.data.kinds.celeba import check_celeba, open_celeba
from fl_core.data.kinds.celeba_folder import ATTRIBUTE_CSV, IMAGE_FOLDER, PARTITION_CSV
from fl_core.data.synthetic.faces import write_faces

NUM = 8
# 4 train, 2 valid, 2 test.
PARTITIONS = (0, 0, 0, 0, 1, 1, 2, 2)


def _name(index: int) -> str:
    return f"{index + 1:06d}.jpg"


def _male(index: int) -> int:
    return 1 if index % 3 == 0 else -1


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Eight images of 30 x 40 pixels, left half dark and right half light, with both CSV files."""
    data = tmp_path / "data"
    folder = data / IMAGE_FOLDER
    folder.mkdir(parents=True)
    attributes, partitions = ["image_id,Eyeglasses,Male,Smiling"], ["image_id,partition"]
    for index in range(NUM):
        pixels = np.full((40, 30, 3), 40 + index, dtype=np.uint8)
        pixels[:, 15:] = 210
        Image.fromarray(pixels).save(folder / _name(index), quality=95)
        attributes.append(f"{_name(index)},-1,{_male(index)},1")
        partitions.append(f"{_name(index)},{PARTITIONS[index]}")
    (data / ATTRIBUTE_CSV).write_text("\n".join(attributes) + "\n")
    (data / PARTITION_CSV).write_text("\n".join(partitions) + "\n")
    return data


def _edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def _error(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_open_reads_labels_and_partition_in_row_order(root: Path) -> None:
    faces = open_celeba(root, attributes=("Male",), shape=ImageShape.square(16))
    assert len(faces) == NUM
    assert faces.names.tolist() == [_name(i) for i in range(NUM)]
    assert faces.labels.dtype == torch.int64
    assert faces.labels.tolist() == [1 if _male(i) == 1 else 0 for i in range(NUM)]
    assert faces.partition.tolist() == list(PARTITIONS)
    assert (faces.root, faces.classes, faces.shape) == (root, ("not Male", "Male"), ImageShape.square(16))
    assert open_celeba(root, attributes=("Eyeglasses",)).labels.sum() == 0


def test_nested_layout_opens_alike(root: Path) -> None:
    flat = open_celeba(root, shape=ImageShape.square(16))
    flat_image = flat.image(0)
    inner = root / "inner"
    (root / IMAGE_FOLDER).rename(inner)
    (root / IMAGE_FOLDER).mkdir()
    inner.rename(root / IMAGE_FOLDER / IMAGE_FOLDER)
    nested = open_celeba(root, shape=ImageShape.square(16))
    assert Path(nested.source.where(0)).parent == root / IMAGE_FOLDER / IMAGE_FOLDER
    assert torch.equal(nested.image(0), flat_image)
    assert nested.fingerprint == flat.fingerprint
    assert list(check_celeba(root)) == []


def test_hidden_files_and_other_types_are_no_images(root: Path) -> None:
    (root / IMAGE_FOLDER / "._000001.jpg").write_bytes(b"resource fork")
    (root / IMAGE_FOLDER / "Thumbs.db").write_bytes(b"x")
    assert len(open_celeba(root)) == NUM
    assert list(check_celeba(root)) == []


def test_csv_with_byte_order_mark_crlf_and_spaces_opens(root: Path) -> None:
    for name in (ATTRIBUTE_CSV, PARTITION_CSV):
        text = (root / name).read_text().replace("\n", "\r\n").replace(",", ", ")
        (root / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert open_celeba(root).partition.tolist() == list(PARTITIONS)


@pytest.mark.parametrize("ends", ["\r\n", "\r"])
def test_ends_of_lines_change_nothing(root: Path, ends: str) -> None:
    before = open_celeba(root)
    for name in (ATTRIBUTE_CSV, PARTITION_CSV):
        (root / name).write_bytes((root / name).read_bytes().replace(b"\n", ends.encode()))
    after = open_celeba(root)
    assert after.fingerprint == before.fingerprint == before.earlier_fingerprints[0]
    assert after.earlier_fingerprints != before.earlier_fingerprints, "older results name this one"
    assert torch.equal(after.labels, before.labels)
    assert after.names.tolist() == before.names.tolist()


def as_text(root: Path, attributes: str, partition: str) -> None:
    """Write the lists as the original download has them, and remove the CSV files."""
    for name in (attributes, partition):
        (root / name).parent.mkdir(exist_ok=True)
    header, *rows = [line.split(",") for line in (root / ATTRIBUTE_CSV).read_text().splitlines()]
    lines = [str(len(rows)), " ".join(header[1:]) + " "]
    lines += [f"{name} {' '.join(value.rjust(2) for value in values)}" for name, *values in rows]
    (root / attributes).write_text("".join(f"{line}\n" for line in lines))
    _, *rows = [line.split(",") for line in (root / PARTITION_CSV).read_text().splitlines()]
    (root / partition).write_text("".join(f"{name} {value}\n" for name, value in rows))
    (root / ATTRIBUTE_CSV).unlink()
    (root / PARTITION_CSV).unlink()


@pytest.mark.parametrize("folders", [("", "", ""), ("Anno/", "Eval/", "Img/"), ("Anno/", "Eval/", "")])
@pytest.mark.parametrize("nested", [False, True])
def test_the_original_download_opens(root: Path, folders: tuple[str, str, str], nested: bool) -> None:
    before = open_celeba(root, shape=ImageShape.square(16))
    picture = before.image(3)
    as_text(root, f"{folders[0]}list_attr_celeba.txt", f"{folders[1]}list_eval_partition.txt")
    place = root / folders[2] / IMAGE_FOLDER / (IMAGE_FOLDER if nested else "")
    images = (root / IMAGE_FOLDER).rename(root / "images")
    place.parent.mkdir(parents=True, exist_ok=True)
    images.rename(place)
    after = open_celeba(root, shape=ImageShape.square(16))
    assert list(check_celeba(root)) == []
    assert Path(after.source.where(0)).parent == place
    assert after.fingerprint == before.fingerprint, "the same data, written otherwise"
    assert torch.equal(after.labels, before.labels)
    assert after.partition.tolist() == before.partition.tolist()
    assert torch.equal(after.image(3), picture)
    assert "list_eval_partition.txt: split 'valid' has 2 images" in _error(lambda: after.split("valid", 3))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("8\n", "9\n", "line 1 says 9 images, but 8 rows follow"),
        ("8\nEyeglasses", "Eyeglasses", "line 1 must be the number of images"),
        ("000004.jpg -1  1  1", "000004.jpg -1  1", "line 6: 3 fields instead of 4"),
        ("000004.jpg -1  1  1", "000004.jpg -1  0  1", "line 6: Male of '000004.jpg' is '0'"),
    ],
)
def test_a_damaged_text_file_is_refused_by_line(root: Path, old: str, new: str, told: str) -> None:
    as_text(root, "list_attr_celeba.txt", "list_eval_partition.txt")
    _edit(root / "list_attr_celeba.txt", old, new)
    assert told in _error(lambda: open_celeba(root))
    assert any(told in problem for problem in check_celeba(root))


def test_pictures_are_turned_as_their_files_say(root: Path) -> None:
    upright = open_celeba(root, shape=ImageShape.square(16))
    whole, path = upright.image(0), root / IMAGE_FOLDER / _name(0)
    assert not upright.picture(0).turned
    with Image.open(path) as file:
        pixels = file.convert("RGB")
    for orientation, transposed in ((3, Image.Transpose.ROTATE_180), (6, Image.Transpose.ROTATE_90)):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        pixels.transpose(transposed).save(path, exif=exif, quality=95)
        faces = open_celeba(root, shape=ImageShape.square(16))
        assert faces.picture(0).turned
        assert torch.allclose(faces.image(0), whole, atol=0.05)
    path.write_bytes(b"Exif and nothing more")
    assert not open_celeba(root).picture(0).turned


def test_a_picture_is_its_name_label_and_bytes(root: Path) -> None:
    faces = open_celeba(root)
    path = root / IMAGE_FOLDER / _name(0)
    before = faces.picture(0)
    assert (before.name, before.label) == ("000001.jpg", 1)
    assert before.digest == hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    path.write_bytes(path.read_bytes() + b"x")
    assert faces.picture(0).digest != before.digest
    path.unlink()
    assert "000001.jpg: the image is gone" in _error(lambda: faces.picture(0))


def test_split_is_in_file_order_and_limited(root: Path) -> None:
    faces = open_celeba(root)
    assert faces.split("train") == [0, 1, 2, 3]
    assert faces.split("valid") == [4, 5]
    assert faces.split("test", limit=1) == [6]


def test_split_errors_say_how_many_there_are(root: Path) -> None:
    faces = open_celeba(root)
    message = _error(lambda: faces.split("valid", limit=3))
    assert PARTITION_CSV in message and "2 images" in message and "at most 2" in message
    assert "1 or more" in _error(lambda: faces.split("valid", limit=0))
    assert "Did you mean 'test'" in _error(lambda: faces.split("tests"))  # type: ignore[arg-type]
    csv_path = root / PARTITION_CSV
    csv_path.write_text(csv_path.read_text().replace(",1\n", ",0\n"))
    message = _error(lambda: open_celeba(root).split("valid"))
    assert PARTITION_CSV in message and "'valid' is empty" in message and "partition 1" in message


def test_image_is_normalised_and_flips(root: Path) -> None:
    image = open_celeba(root, shape=ImageShape.square(16)).image(0)
    assert image.shape == (3, 16, 16)
    assert image.dtype == torch.float32
    assert image.min() >= -1 and image.max() <= 1
    assert image[:, :, :6].mean() == pytest.approx(40 / 127.5 - 1, abs=0.03)
    assert image[:, :, 10:].mean() == pytest.approx(210 / 127.5 - 1, abs=0.03)
    assert torch.equal(open_celeba(root, shape=ImageShape.square(16)).image(0, flip=True), image.flip(-1))


@pytest.mark.parametrize("size", [(89, 109), (178, 218), (64, 64), (51, 40), (33, 97)])
def test_image_matches_torchvision(root: Path, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    path = root / IMAGE_FOLDER / _name(0)
    Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(path)
    transform = v2.Compose([v2.Resize(64), v2.CenterCrop(64), v2.PILToTensor()])
    expected = transform(Image.open(path).convert("RGB")).float() / 255 * 2 - 1
    assert torch.allclose(open_celeba(root).image(0), expected, atol=1e-6)


def test_gray_images_become_rgb(root: Path) -> None:
    Image.new("L", (30, 40), 100).save(root / IMAGE_FOLDER / _name(0))
    image = open_celeba(root, shape=ImageShape.square(16)).image(0)
    assert image.shape == (3, 16, 16)
    assert torch.equal(image[0], image[2])


def test_batch_stacks_images_labels_and_flips(root: Path) -> None:
    faces = open_celeba(root, shape=ImageShape.square(16))
    images, labels = faces.batch([3, 0, 1], flips=[False, True, False])
    assert images.shape == (3, 3, 16, 16)
    assert labels.tolist() == [1, 1, 0]
    assert torch.equal(images[0], faces.image(3))
    assert torch.equal(images[1], faces.image(0, flip=True))
    with pytest.raises(ValueError, match="at least one"):
        faces.batch([])
    with pytest.raises(ValueError, match="shorter"):
        faces.batch([0, 1], flips=[True])


def test_dataset_pickles(root: Path) -> None:
    faces = open_celeba(root, shape=ImageShape.square(16))
    fingerprint = faces.fingerprint
    copy = pickle.loads(pickle.dumps(faces))
    assert isinstance(copy, ImageDataset)
    assert copy.fingerprint == fingerprint
    assert copy.split("train") == faces.split("train")
    assert torch.equal(copy.image(2), faces.image(2))


def test_fingerprint_follows_content_not_place(root: Path, tmp_path: Path) -> None:
    original = open_celeba(root).fingerprint
    assert len(original) == 16
    shutil.copytree(root, tmp_path / "elsewhere")
    assert open_celeba(tmp_path / "elsewhere").fingerprint == original
    assert open_celeba(root, attributes=("Smiling",)).fingerprint != original
    assert open_celeba(root, shape=ImageShape.square(32)).fingerprint != original
    _edit(root / PARTITION_CSV, "000001.jpg,0", "000001.jpg,2")
    assert open_celeba(root).fingerprint != original


def test_access_does_not_list_the_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faces = open_celeba(root)

    def refuse(*_: object) -> Iterator[os.DirEntry[str]]:
        raise AssertionError("listed")

    monkeypatch.setattr(os, "scandir", refuse)
    assert faces.batch(faces.split("train"))[0].shape[0] == 4


def _remove(relative: str) -> Callable[[Path], None]:
    return lambda root: (root / relative).unlink()


def _replace(name: str, old: str, new: str) -> Callable[[Path], None]:
    return lambda root: _edit(root / name, old, new)


def _write(name: str, content: bytes) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        (root / name).write_bytes(content)

    return write


def _empty_images(root: Path) -> None:
    for path in (root / IMAGE_FOLDER).iterdir():
        path.unlink()


BROKEN: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "no root": (shutil.rmtree, ("no such data folder", IMAGE_FOLDER, ATTRIBUTE_CSV, PARTITION_CSV)),
    "no image folder": (
        lambda r: shutil.rmtree(r / IMAGE_FOLDER),
        (IMAGE_FOLDER, "no such folder", "unpack"),
    ),
    "no images": (_empty_images, (IMAGE_FOLDER, "no *.jpg", "unpack")),
    "no attribute file": (_remove(ATTRIBUTE_CSV), (ATTRIBUTE_CSV, "cannot be opened", "put CelebA's")),
    "no partition file": (_remove(PARTITION_CSV), (PARTITION_CSV, "cannot be opened", "put CelebA's")),
    "attribute file empty": (_write(ATTRIBUTE_CSV, b""), (ATTRIBUTE_CSV, "'image_id'", "restore")),
    "partition file without rows": (
        _write(PARTITION_CSV, b"image_id,partition\n"),
        (PARTITION_CSV, "no rows", "restore"),
    ),
    "attribute file is binary": (
        _write(ATTRIBUTE_CSV, b"image_id,Male\n\xff\xfe\x00\n"),
        (ATTRIBUTE_CSV, "not CSV text", "restore"),
    ),
    "no id column": (_replace(ATTRIBUTE_CSV, "image_id", "file"), (ATTRIBUTE_CSV, "'image_id'", "restore")),
    "no partition column": (
        _replace(PARTITION_CSV, "partition", "split"),
        (PARTITION_CSV, "no column 'partition'", "restore"),
    ),
    "short row": (
        _replace(ATTRIBUTE_CSV, "000002.jpg,-1,-1,1", "000002.jpg,-1,-1"),
        (ATTRIBUTE_CSV, "line 3", "3 fields instead of 4", "mend or delete"),
    ),
    "long row": (
        _replace(PARTITION_CSV, "000003.jpg,0", "000003.jpg,0,0"),
        (PARTITION_CSV, "line 4", "3 fields instead of 2", "mend or delete"),
    ),
    "bad label": (
        _replace(ATTRIBUTE_CSV, "000004.jpg,-1,1,1", "000004.jpg,-1,0,1"),
        (ATTRIBUTE_CSV, "line 5", "Male of '000004.jpg' is '0'", "must be -1 or 1"),
    ),
    "bad partition": (
        _replace(PARTITION_CSV, "000005.jpg,1", "000005.jpg,3"),
        (PARTITION_CSV, "line 6", "'000005.jpg' is '3'", "must be 0 or 1 or 2"),
    ),
    "row twice": (
        _replace(ATTRIBUTE_CSV, "000002.jpg", "000001.jpg"),
        (ATTRIBUTE_CSV, "line 3", "second row for '000001.jpg'", "delete one"),
    ),
    "row without image": (
        _remove(f"{IMAGE_FOLDER}/000006.jpg"),
        (ATTRIBUTE_CSV, "'000006.jpg'", "no image", "restore it or delete the row"),
    ),
    "image without attribute row": (
        _replace(ATTRIBUTE_CSV, "000007.jpg,-1,1,1\n", ""),
        ("000007.jpg", f"no row in {{root}}/{ATTRIBUTE_CSV}", "add one or delete the image"),
    ),
    "image without partition row": (
        _replace(PARTITION_CSV, "000007.jpg,2\n", ""),
        ("000007.jpg", f"no row in {{root}}/{PARTITION_CSV}", "add one or delete the image"),
    ),
    "partition row without image": (
        _replace(PARTITION_CSV, "000008.jpg,2\n", "000008.jpg,2\n000099.jpg,2\n"),
        (PARTITION_CSV, "'000099.jpg'", "no image", "delete the row"),
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_folder_is_refused_and_checked(root: Path, case: str) -> None:
    damage, expected = BROKEN[case]
    damage(root)
    message = _error(lambda: open_celeba(root))
    problems = list(check_celeba(root))
    for part in expected:
        assert part.format(root=root) in message
    assert str(root) in message
    assert message in problems


def test_unknown_attribute_names_the_nearest(root: Path) -> None:
    message = _error(lambda: open_celeba(root, attributes=("male",)))
    assert "Unknown attribute 'male'" in message
    assert "Did you mean 'Male'?" in message
    assert "Eyeglasses, Male, Smiling" in message
    assert "1 or more" in _error(lambda: open_celeba(root, shape=ImageShape.square(0)))


def _damaged(kind: str, whole: bytes) -> bytes:
    return {"truncated": whole[: len(whole) // 2], "empty": b"", "text": b"<html>404</html>"}[kind]


@pytest.mark.parametrize("kind", ["truncated", "empty", "text"])
def test_undecodable_image_is_named_at_access(root: Path, kind: str) -> None:
    path = root / IMAGE_FOLDER / _name(1)
    path.write_bytes(_damaged(kind, path.read_bytes()))
    faces = open_celeba(root, shape=ImageShape.square(16))
    assert faces.image(0).shape == (3, 16, 16)
    message = _error(lambda: faces.image(1))
    assert str(path) in message
    assert f"({path.stat().st_size} bytes" in message
    assert "restore this file" in message
    assert message == _error(lambda: faces.batch([0, 1]))
    assert list(check_celeba(root)) == [message]


def test_image_deleted_after_opening_is_named(root: Path) -> None:
    faces = open_celeba(root)
    (root / IMAGE_FOLDER / _name(2)).unlink()
    message = _error(lambda: faces.image(2))
    assert str(root / IMAGE_FOLDER / _name(2)) in message and "restore it" in message


def test_check_reports_all_problems_at_once(root: Path) -> None:
    (root / IMAGE_FOLDER / _name(0)).write_bytes(b"")
    (root / IMAGE_FOLDER / _name(5)).unlink()
    _edit(root / ATTRIBUTE_CSV, "000004.jpg,-1,1,1", "000004.jpg,2,1,x")
    _edit(root / PARTITION_CSV, "000003.jpg,0", "000003.jpg")
    problems = list(check_celeba(root))
    for parts in (
        ("000001.jpg", "0 bytes"),
        ("'000006.jpg'", "no image"),
        ("Eyeglasses of '000004.jpg' is '2'",),
        ("Smiling of '000004.jpg' is 'x'",),
        (PARTITION_CSV, "line 4", "1 fields"),
        ("000003.jpg", f"no row in {root / PARTITION_CSV}"),
    ):
        assert sum(all(part in line for part in parts) for line in problems) == 1, parts
    assert len(problems) == 6


@pytest.mark.parametrize("num", [4, 40])
def test_many_problems_of_one_kind_are_few_lines(tmp_path: Path, num: int) -> None:
    root = tmp_path / "faces"
    write_faces(root, num=num)
    labels = (root / ATTRIBUTE_CSV).read_text()
    (root / ATTRIBUTE_CSV).write_text(labels.replace(",-1", ",0"))
    line, *more = check_celeba(root)
    assert not more
    assert "line 2: 5_o_Clock_Shadow of '000001.jpg' is '0'; it must be -1 or 1 (-1 means no)" in line
    assert f"{labels.count(',-1') - 1} more values are like it" in line
    (root / ATTRIBUTE_CSV).write_text(labels.replace(".jpg,", ".jpg,1,"))
    assert len(list(check_celeba(root))) <= 12
    (root / ATTRIBUTE_CSV).write_text(labels)
    for path in list((root / IMAGE_FOLDER).iterdir())[1:]:
        path.unlink()
    told = list(check_celeba(root))
    assert len(told) == min(num - 1, 11)
    assert num == 4 or told[-1].endswith(f"rows without an image: {num - 11} more.")
    for path in (root / IMAGE_FOLDER).iterdir():
        path.unlink()
    for index in range(num):
        (root / IMAGE_FOLDER / _name(index)).write_bytes(b"")
    told = list(check_celeba(root))
    assert len(told) == min(num, 11)
    assert num == 4 or told[-1].endswith(f"{num - 10} more images cannot be read.")


def test_check_reports_both_files_and_decodes_without_them(root: Path) -> None:
    (root / ATTRIBUTE_CSV).unlink()
    (root / PARTITION_CSV).unlink()
    (root / IMAGE_FOLDER / _name(0)).write_bytes(b"")
    problems = list(check_celeba(root))
    assert [
        name in line for name, line in zip((ATTRIBUTE_CSV, PARTITION_CSV, _name(0)), problems, strict=True)
    ]
    assert len(problems) == 3


def test_check_tells_progress(root: Path) -> None:
    told: list[tuple[int, int]] = []
    assert list(check_celeba(root, lambda done, total: told.append((done, total)))) == []
    assert told == [(i + 1, NUM) for i in range(NUM)]


@pytest.mark.skipif("CELEBA_ROOT" not in os.environ, reason="CELEBA_ROOT is not set: no real CelebA here")
def test_real_celeba_opens() -> None:
    faces = open_celeba(Path(os.environ["CELEBA_ROOT"]))
    train = faces.split("train", limit=64)
    images, labels = faces.batch(train)
    assert images.shape == (64, 3, 64, 64)
    # Photographs, not noise or blanks; and both labels occur.
    assert 0.3 < images.std() < 0.8
    assert 0 < labels.sum() < 64
    assert 0.35 < faces.labels.float().mean() < 0.5


def test_several_attributes_give_a_class_for_each_combination(root: Path) -> None:
    names = ("Male", "Smiling")
    both = open_celeba(root, attributes=names, shape=ImageShape.square(16))
    assert both.classes == (
        "not Male + not Smiling",
        "not Male + Smiling",
        "Male + not Smiling",
        "Male + Smiling",
    )
    male, smiling = (
        open_celeba(root, attributes=(name,), shape=ImageShape.square(16)).labels for name in names
    )
    assert torch.equal(both.labels, 2 * male + smiling)
    assert len({both.fingerprint, open_celeba(root, shape=ImageShape.square(16)).fingerprint}) == 2
    for wrong in ((), ("Male", "Male"), ("Male", "Smilign")):
        with pytest.raises(InputError, match=r"each once|Did you mean 'Smiling'"):
            open_celeba(root, attributes=wrong)


def test_faces_need_not_be_squares_or_coloured(root: Path) -> None:
    faces = open_celeba(root, shape=ImageShape(channels=1, height=24, width=16))
    assert faces.image(0).shape == (1, 24, 16)
