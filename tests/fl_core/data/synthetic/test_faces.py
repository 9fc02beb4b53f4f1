"""Synthetic portraits: layout, determinism, attributes that hold, and photographic statistics."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from fl_core.base.errors import InputError
from fl_core.base.shape import ImageShape
from fl_core.data.kinds.celeba import check_celeba, open_celeba
from fl_core.data.kinds.celeba_folder import ATTRIBUTE_CSV, IMAGE_FOLDER, PARTITION_CSV
from fl_core.data.synthetic.faces import ATTRIBUTES, render_face, unwritten_faces, write_faces

Pixels = npt.NDArray[np.floating[Any]]
NUM = 1000


class Gallery:
    """The first portraits of one series, in [0, 1], and their attributes as columns."""

    def __init__(self) -> None:
        rendered = [render_face(11, index) for index in range(NUM)]
        self.pixels: Pixels = np.stack([pixels for pixels, _ in rendered]).astype(np.float32) / 255
        self.holds = {name: np.array([held[name] for _, held in rendered]) for name in ATTRIBUTES}

    def mean(self, which: npt.NDArray[np.bool_], rows: slice, columns: slice) -> Pixels:
        """Mean RGB of a window over the portraits `which`."""
        assert which.sum() >= 8
        colour: Pixels = self.pixels[which, rows, columns].mean(axis=(0, 1, 2))
        return colour


@pytest.fixture(scope="module")
def gallery() -> Gallery:
    return Gallery()


# Windows (rows, columns) of the 109 x 89 picture; the eyes are at row 55, columns 34 and 54.
CROWN = (slice(23, 31), slice(36, 53))
FOREHEAD = (slice(38, 46), slice(38, 51))
EYES = (slice(50, 61), slice(25, 64))
MOUTH = (slice(75, 81), slice(39, 50))
UPPER_LIP = (slice(71, 74), slice(39, 50))
CHIN = (slice(82, 88), slice(41, 48))
CHEEKS = (slice(63, 68), slice(29, 35))
SIDES = (slice(70, 85), slice(19, 24))


def test_picture_and_attributes_have_celebas_form() -> None:
    pixels, held = render_face(0, 0)
    assert pixels.shape == (109, 89, 3)
    assert pixels.dtype == np.uint8
    assert tuple(held) == ATTRIBUTES
    assert len(set(ATTRIBUTES)) == 40
    assert list(ATTRIBUTES) == sorted(ATTRIBUTES)
    assert all(type(value) is bool for value in held.values())


def test_portraits_depend_on_seed_and_index_alone() -> None:
    first = render_face(3, 5)
    render_face(3, 6)
    again = render_face(3, 5)
    assert np.array_equal(first[0], again[0]) and first[1] == again[1]
    assert not np.array_equal(first[0], render_face(3, 6)[0])
    assert not np.array_equal(first[0], render_face(4, 5)[0])


def test_global_generators_are_left_alone(tmp_path: Path) -> None:
    numpy_before = np.random.get_state()  # noqa: NPY002
    torch_before, python_before = torch.get_rng_state(), random.getstate()
    render_face(0, 1)
    write_faces(tmp_path / "faces", num=3)
    numpy_after = np.random.get_state()  # noqa: NPY002
    for before, after in zip(numpy_before, numpy_after, strict=True):
        assert np.array_equal(before, after)
    assert torch.equal(torch_before, torch.get_rng_state())
    assert python_before == random.getstate()


def _bytes_of(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_written_bytes_repeat_and_images_do_not_depend_on_num(tmp_path: Path) -> None:
    write_faces(tmp_path / "a", num=16, seed=2)
    write_faces(tmp_path / "b", num=16, seed=2)
    write_faces(tmp_path / "c", num=5, seed=2)
    write_faces(tmp_path / "d", num=5, seed=3)
    a, b, c, d = (_bytes_of(tmp_path / name) for name in "abcd")
    assert a == b
    images = [name for name in c if name.endswith(".jpg")]
    assert len(images) == 5
    assert all(a[name] == c[name] for name in images)
    assert all(d[name] != c[name] for name in images)
    rows = (tmp_path / "a" / ATTRIBUTE_CSV).read_text().splitlines()
    assert rows[:6] == (tmp_path / "c" / ATTRIBUTE_CSV).read_text().splitlines()


def test_written_folder_opens_as_celeba(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    root = tmp_path / "new" / "faces"
    write_faces(root, num=16, seed=1, progress=lambda done, num: told.append((done, num)))
    assert told == [(i + 1, 16) for i in range(16)]
    assert list(check_celeba(root)) == []
    faces = open_celeba(root)
    assert [len(faces.split(name)) for name in ("train", "valid", "test")] == [12, 2, 2]
    assert faces.names[0] == "000001.jpg"
    assert faces.labels.tolist() == [int(render_face(1, i)[1]["Male"]) for i in range(16)]
    assert faces.partition.tolist() == sorted(faces.partition.tolist())
    header, first = (root / ATTRIBUTE_CSV).read_text().splitlines()[:2]
    assert header == "image_id," + ",".join(ATTRIBUTES)
    held = render_face(1, 0)[1]
    assert first == "000001.jpg," + ",".join("1" if held[name] else "-1" for name in ATTRIBUTES)
    stored = np.asarray(Image.open(root / IMAGE_FOLDER / "000001.jpg")).astype(int)
    assert np.abs(stored - render_face(1, 0)[0].astype(int)).mean() < 8


@pytest.mark.parametrize("num", [0, -3, 1_000_000])
def test_number_out_of_range_is_refused(tmp_path: Path, num: int) -> None:
    with pytest.raises(InputError, match=rf"num is {num}; write between 1 and 999999"):
        write_faces(tmp_path / "faces", num=num)
    assert not (tmp_path / "faces").exists()


@pytest.mark.parametrize("present", [IMAGE_FOLDER, ATTRIBUTE_CSV, PARTITION_CSV])
def test_existing_data_is_never_overwritten(tmp_path: Path, present: str) -> None:
    (tmp_path / present).write_text("precious")
    with pytest.raises(InputError, match="exists already; name a new folder") as caught:
        write_faces(tmp_path, num=2)
    assert str(tmp_path / present) in str(caught.value)
    assert (tmp_path / present).read_text() == "precious"
    assert len(list(tmp_path.iterdir())) == 1


def test_unwritable_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write synthetic faces") as caught:
        write_faces(tmp_path / "file" / "faces", num=2)
    assert str(tmp_path / "file" / "faces") in str(caught.value)


def test_interrupted_run_does_not_open(tmp_path: Path) -> None:
    def stop(done: int, _: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_faces(tmp_path, num=5, progress=stop)
    with pytest.raises(InputError, match=ATTRIBUTE_CSV):
        open_celeba(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attribute", "rate"),
    [("Male", 0.42), ("Smiling", 0.48), ("Young", 0.77), ("No_Beard", 0.83), ("Mouth_Slightly_Open", 0.48)],
)
def test_frequencies_are_near_celebas(gallery: Gallery, attribute: str, rate: float) -> None:
    assert gallery.holds[attribute].mean() == pytest.approx(rate, abs=0.06)


def test_attributes_are_consistent(gallery: Gallery) -> None:
    held = gallery.holds
    tones = np.sum([held[f"{tone}_Hair"] for tone in ("Black", "Blond", "Brown", "Gray")], axis=0)
    assert tones.max() == 1
    assert not (held["Bald"] & (tones == 1)).any()
    assert not (held["Young"] & held["Gray_Hair"]).any()
    bearded = held["5_o_Clock_Shadow"] | held["Goatee"] | held["Mustache"]
    assert not (bearded & held["No_Beard"]).any()
    assert held["Male"][~held["No_Beard"]].all()
    assert not (held["Straight_Hair"] & held["Wavy_Hair"]).any()
    assert not held["Wearing_Necklace"].any()


def test_hair_has_its_colour(gallery: Gallery) -> None:
    held = gallery.holds
    bare = ~held["Wearing_Hat"]
    black, brown, blond, gray = (
        gallery.mean(held[f"{tone}_Hair"] & bare, *CROWN) for tone in ("Black", "Brown", "Blond", "Gray")
    )
    assert blond.mean() > brown.mean() + 0.15 > black.mean() + 0.2
    # Yellow is red and green without blue.
    assert blond[0] - blond[2] > black[0] - black[2] + 0.15
    assert abs(gray[0] - gray[2]) < 0.1 < gray.mean() - brown.mean()


def test_glasses_darken_the_eyes(gallery: Gallery) -> None:
    glasses = gallery.holds["Eyeglasses"]
    assert gallery.mean(glasses, *EYES).mean() < gallery.mean(~glasses, *EYES).mean() - 0.04


def test_hats_and_bald_heads_and_bangs_show(gallery: Gallery) -> None:
    held = gallery.holds
    hats = held["Wearing_Hat"]
    hair = gallery.pixels[:, CROWN[0], CROWN[1]]
    # Cloth comes in all colours, hair does not: the crown's saturation tells hats from black hair.
    saturation = (hair.max(-1) - hair.min(-1)).mean((1, 2))
    assert saturation[hats].mean() > saturation[held["Black_Hair"] & ~hats].mean() + 0.1
    bald = held["Bald"]
    assert gallery.mean(bald, *CROWN)[0] > gallery.mean(held["Black_Hair"] & ~hats, *CROWN)[0] + 0.3
    bangs = held["Bangs"] & held["Black_Hair"]
    free = ~held["Bangs"] & held["Black_Hair"] & ~hats
    assert gallery.mean(bangs, *FOREHEAD).mean() < gallery.mean(free, *FOREHEAD).mean() - 0.2


def test_mouth_shows_teeth_lipstick_and_beards(gallery: Gallery) -> None:
    held = gallery.holds
    smile = held["Smiling"] & held["Mouth_Slightly_Open"]
    closed = ~held["Mouth_Slightly_Open"]
    assert gallery.mean(smile, *MOUTH)[1] > gallery.mean(closed, *MOUTH)[1] + 0.08
    shut = closed & ~held["Male"]
    painted, plain = (
        gallery.mean(shut & which, *MOUTH) for which in (held["Wearing_Lipstick"], ~held["Wearing_Lipstick"])
    )
    assert painted[0] - painted[1] > plain[0] - plain[1] + 0.05
    smooth = held["Male"] & held["No_Beard"]
    assert gallery.mean(held["Mustache"], *UPPER_LIP).mean() < gallery.mean(smooth, *UPPER_LIP).mean() - 0.15
    assert gallery.mean(held["Goatee"], *CHIN).mean() < gallery.mean(smooth, *CHIN).mean() - 0.15
    shadow = held["5_o_Clock_Shadow"]
    assert gallery.mean(shadow, *CHIN).mean() < gallery.mean(smooth, *CHIN).mean() - 0.04


def test_skin_and_focus_show(gallery: Gallery) -> None:
    held = gallery.holds
    assert (
        gallery.mean(held["Pale_Skin"], *CHEEKS).mean()
        > gallery.mean(~held["Pale_Skin"], *CHEEKS).mean() + 0.06
    )
    rosy = gallery.mean(held["Rosy_Cheeks"], *CHEEKS)
    plain = gallery.mean(~held["Rosy_Cheeks"] & ~held["Male"], *CHEEKS)
    assert rosy[0] - rosy[1] > plain[0] - plain[1] + 0.04
    sharpness = np.abs(np.diff(gallery.pixels, axis=2)).mean((1, 2, 3))
    assert sharpness[held["Blurry"]].mean() < 0.6 * sharpness[~held["Blurry"]].mean()


def _small(gallery: Gallery) -> Pixels:
    """Gray 64 x 64 centre crops, (n, 64, 64)."""
    gray = (gallery.pixels.mean(-1) * 255).astype(np.uint8)
    resized = [Image.fromarray(image).resize((64, 78), Image.Resampling.BILINEAR) for image in gray]
    return np.stack([np.asarray(image, dtype=np.float32)[7:71] for image in resized]) / 255


def test_spectrum_falls_like_a_photographs(gallery: Gallery) -> None:
    images = _small(gallery)
    window = np.outer(np.hanning(64), np.hanning(64))
    amplitude = np.abs(np.fft.fft2((images - images.mean((1, 2), keepdims=True)) * window)).mean(0)
    frequency = np.fft.fftfreq(64) * 64
    radius = np.round(np.hypot(frequency[:, None], frequency[None, :])).astype(int)
    bands = np.arange(2, 29)
    profile = [amplitude[radius == band].mean() for band in bands]
    slope = np.polyfit(np.log(bands), np.log(profile), 1)[0]
    # CelebA's own slope, measured alike, is -1.66.
    assert -1.9 < slope < -1.45


def test_contrast_and_mean_image_are_near_celebas(gallery: Gallery) -> None:
    pixels = gallery.pixels
    assert 0.2 < pixels.std(axis=(1, 2, 3)).mean() < 0.3
    error = ((pixels - pixels.mean(0)) ** 2).mean((1, 2, 3))
    assert 10.0 < (-10 * np.log10(error)).mean() < 13.0
    images = _small(gallery)
    variation = np.abs(np.diff(images, axis=1)).mean() + np.abs(np.diff(images, axis=2)).mean()
    assert 0.05 < variation < 0.1


def test_sex_can_be_learned(gallery: Gallery) -> None:
    """A ridge classifier on 16 x 13 pixels already separates the labels on held-out portraits."""
    coarse = np.stack(
        [np.asarray(Image.fromarray((p * 255).astype(np.uint8)).resize((13, 16))) for p in gallery.pixels]
    )
    features = np.hstack([coarse.reshape(NUM, -1) / 255.0 - 0.5, np.ones((NUM, 1))])
    target = np.where(gallery.holds["Male"], 1.0, -1.0)
    train, test = slice(0, 750), slice(750, NUM)
    gram = features[train].T @ features[train] + 20 * np.eye(features.shape[1])
    weights = np.linalg.solve(gram, features[train].T @ target[train])
    assert ((features[test] @ weights > 0) == (target[test] > 0)).mean() > 0.8


def test_faces_that_are_not_written_yet_are_those_that_will_be(tmp_path: Path) -> None:
    shape = ImageShape.square(32)
    write_faces(tmp_path / "written", num=16, seed=3)
    written = open_celeba(tmp_path / "written", attributes=("Male",), shape=shape)
    planned = unwritten_faces(tmp_path / "not", num=16, seed=3, attributes=("Male",), shape=shape)
    assert written.labels.equal(planned.labels)
    for index in (0, 15):
        assert written.source.content(index) == planned.source.content(index)
        assert written.image(index).equal(planned.image(index))
    assert not (tmp_path / "not").exists()
