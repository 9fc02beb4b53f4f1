"""CelebA on disk: a folder of JPEGs and two CSV files, opened without decoding a single image.

The layout, under one root folder, is that of the aligned and cropped release (Liu et al., "Deep Learning
Face Attributes in the Wild", ICCV 2015):

- `img_align_celeba/*.jpg`, or the same folder nested once more, as some archives unpack, or in `Img/`;
- `list_attr_celeba.csv`: `image_id` and one column of -1 / 1 per attribute;
- `list_eval_partition.csv`: `image_id` and `partition`, 0 / 1 / 2 for train / valid / test.

Where a CSV file is missing, the text file of the original download is read in its place: beside the images' folder,
or in `Anno/` and `Eval/`.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

import numpy as np
import numpy.typing as npt
import torch
from PIL import ExifTags, Image, ImageOps

from fl_core.base.errors import InputError, unknown_name
from fl_core.data.celeba_folder import ATTRIBUTE_CSV, IMAGE_FOLDER, PARTITION_CSV, Layout
from fl_core.data.celeba_lists import (
    ID_COLUMN,
    LABELS,
    PARTITION_COLUMN,
    PARTITIONS,
    ListFile,
    Problem,
    Report,
    read_column,
)

__all__ = [
    "ATTRIBUTE_CSV",
    "IMAGE_FOLDER",
    "PARTITION_CSV",
    "FaceDataset",
    "Picture",
    "SplitName",
    "check_celeba",
    "open_celeba",
    "read_attribute_names",
]

SplitName = Literal["train", "valid", "test"]

_SPLITS: Mapping[str, int] = {"train": 0, "valid": 1, "test": 2}
# What Pillow raises for bytes that are no image, or not a whole one.
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)

_SAME_VALUES, _TOLD = 3, 10
"""Up to so many cells with the same wrong value, and problems of one other kind, are told one by one in a check."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What a picture is: its file's name, its label, a digest of the file's bytes.

    `turned` says that the file asks to be shown turned or mirrored (EXIF orientation), as `FaceDataset` does.
    """

    name: str
    label: int
    digest: str
    turned: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class FaceDataset:
    """Labelled faces that are decoded one by one on access; cheap to pickle to worker processes.

    Files that say how they are to be turned or mirrored (EXIF orientation) are shown so.

    Attributes:
        root: the folder that was opened.
        folder: where the JPEGs lie.
        attribute: the CelebA attribute behind `labels`.
        image_size: side S of the square images, in pixels.
        names: file names, unicode (n,), in the row order of the attribute file.
        labels: int64 (n,), 1 where the attribute holds and 0 where not.
        partition: int8 (n,), 0 / 1 / 2 for train / valid / test.
        lists: the file with the labels and the file with the partition.
        fingerprint: 16 hex digits that change with the lists, the attribute, the image size or the file names, but not
            with the ends of the lists' lines.
        raw_fingerprint: the same with the ends of lines, as results that were written before this changed have it.
    """

    root: Path
    folder: Path
    attribute: str
    image_size: int
    names: npt.NDArray[np.str_]
    labels: torch.Tensor
    partition: npt.NDArray[np.int8]
    lists: tuple[Path, Path]
    fingerprint: str
    raw_fingerprint: str

    def __len__(self) -> int:
        return len(self.names)

    def split(self, name: SplitName, limit: int | None = None) -> list[int]:
        """Indices of one official split in file order, the first `limit` of them if given.

        Raises:
            InputError: no such split, nothing in it, or fewer than `limit` images in it.
        """
        if name not in _SPLITS:
            raise unknown_name("split", name, _SPLITS)
        if limit is not None and limit < 1:
            raise InputError(f"A limit of {limit} images for split {name!r} is too small; use 1 or more.")
        indices: list[int] = np.flatnonzero(self.partition == _SPLITS[name]).tolist()
        where = self.lists[1]
        if not indices:
            raise InputError(
                f"{where}: split {name!r} is empty; give images partition {_SPLITS[name]} there, "
                "or use another split."
            )
        if limit is not None and limit > len(indices):
            raise InputError(
                f"{where}: split {name!r} has {len(indices)} images, fewer than the {limit} asked for; "
                f"ask for at most {len(indices)}, or use a larger data folder."
            )
        return indices[:limit]

    def image(self, index: int, *, flip: bool = False) -> torch.Tensor:
        """Image `index` as float32 (3, S, S) in [-1, 1], mirrored left to right if `flip`.

        The shorter side is resized to S (bilinear, antialiased) and the centre cut out, by the rules of
        torchvision's `Resize(S)` and `CenterCrop(S)`; then (value - 0.5) / 0.5.

        Raises:
            InputError: the file is gone, or is no whole image.
        """
        return _scaled(self._pixels(index, flip))

    def batch(
        self, indices: Sequence[int], flips: Sequence[bool] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (B, 3, S, S) float32 and labels (B,) int64 of `indices`; `flips` mirrors image by image.

        Raises:
            InputError: a file is gone, or is no whole image.
            ValueError: `indices` is empty, or `flips` has another length.
        """
        if len(indices) == 0:
            raise ValueError("A batch needs at least one index.")
        mirrored = [False] * len(indices) if flips is None else flips
        images = [self._pixels(i, flip) for i, flip in zip(indices, mirrored, strict=True)]
        return _scaled(torch.stack(images)), self.labels[list(indices)]

    def _pixels(self, index: int, flip: bool) -> torch.Tensor:
        """Image `index` as uint8 (3, S, S)."""
        path = self.folder / str(self.names[index])
        try:
            with Image.open(path) as file:
                upright = ImageOps.exif_transpose(file)
                square = _square(
                    upright if upright.mode == "RGB" else upright.convert("RGB"), self.image_size
                )
        except _DECODE_ERRORS as error:
            raise InputError(_decode_problem(path, error)) from error
        pixels = torch.from_numpy(np.array(square)).permute(2, 0, 1)
        return pixels.flip(-1) if flip else pixels

    def picture(self, index: int) -> Picture:
        """What picture `index` is, from its file's bytes; raises `InputError` where they cannot be read."""
        path = self.folder / str(self.names[index])
        try:
            content = path.read_bytes()
        except OSError as error:
            raise InputError(_decode_problem(path, error)) from error
        return Picture(
            name=str(self.names[index]),
            label=int(self.labels[index]),
            digest=hashlib.sha256(content).hexdigest()[:16],
            turned=_is_turned(content),
        )


def open_celeba(root: Path, *, attribute: str = "Male", image_size: int = 64) -> FaceDataset:
    """Open the data folder `root`: read both CSV files, list the images once, decode none.

    Raises:
        InputError: a missing folder, file or column, a malformed row, an unknown attribute, or images and
            rows that do not match. The message names the file, the value and the remedy.
    """
    if image_size < 1:
        raise InputError(f"An image size of {image_size} pixels is too small; use 1 or more.")
    layout = Layout.of(root)
    folder, files = layout.jpegs()
    attributes = _attribute_names(layout.attributes)
    if attribute not in attributes:
        raise unknown_name("attribute", attribute, attributes)
    labels = read_column(layout.attributes, attribute, LABELS, (), _fail)
    partition = read_column(layout.partition, PARTITION_COLUMN, PARTITIONS, (), _fail)
    for problem in _mismatches(layout, folder, files, labels, partition):
        _fail(problem)
    lists = (layout.attributes, layout.partition)
    names = "\n".join(labels).encode()
    start = f"{attribute}\n{image_size}\n".encode()
    return FaceDataset(
        root=root,
        folder=folder,
        attribute=attribute,
        image_size=image_size,
        names=np.array(list(labels)),
        labels=torch.tensor(list(labels.values()), dtype=torch.int64),
        partition=np.array([partition[name] for name in labels], dtype=np.int8),
        lists=lists,
        fingerprint=_fingerprint(start, (_canonical(path) for path in lists), names),
        raw_fingerprint=_fingerprint(start, (path.read_bytes() for path in lists), names),
    )


def _fingerprint(start: bytes, lists: Iterable[bytes], names: bytes) -> str:
    digest = hashlib.sha256(start)
    for content in lists:
        digest.update(hashlib.sha256(content).digest())
    digest.update(names)
    return digest.hexdigest()[:16]


def _canonical(path: Path) -> bytes:
    with ListFile(path) as rows:
        return rows.canonical()


def read_attribute_names(root: Path) -> list[str]:
    """The attribute columns of `root`'s attribute file, in its order.

    Raises:
        InputError: the file is missing, not text, or has no `image_id` column.
    """
    return _attribute_names(Layout.of(root).attributes)


def _attribute_names(path: Path) -> list[str]:
    with ListFile(path) as rows:
        return [column for column in rows.header if column != ID_COLUMN]


def check_celeba(root: Path, progress: Callable[[int, int], None] | None = None) -> Iterator[str]:
    """The problems of the data folder `root`, one line each; nothing when the folder is fine.

    Reads every value of both lists and decodes every image, holding one at a time. Of many problems that are alike
    the first are told, of many equal values one, and then how many more there are.

    Args:
        root: the data folder.
        progress: called with (images decoded, images in all) after each image.
    """
    try:
        layout = Layout.of(root)
    except InputError as error:
        yield str(error)
        return
    found: list[Problem] = []
    folder, files = layout.images, set[str]()
    try:
        folder, files = layout.jpegs()
    except InputError as error:
        found.append(Problem(kind="images", text=str(error)))
    labels, partition = _check_lists(layout, found.append)
    if files and labels is not None and partition is not None:
        found += _mismatches(layout, folder, files, labels, partition)
    yield from _condensed(found)
    broken = 0
    for done, name in enumerate(sorted(files), start=1):
        try:
            with Image.open(folder / name) as file:
                file.load()
        except _DECODE_ERRORS as error:
            broken += 1
            if broken <= _TOLD:
                yield _decode_problem(folder / name, error)
        if progress is not None:
            progress(done, len(files))
    if broken > _TOLD:
        yield f"{folder}: {broken - _TOLD} more images cannot be read."


def _condensed(problems: Iterable[Problem]) -> Iterator[str]:
    """The problems' lines, those of one kind together and not more of them than can be read."""
    alike: dict[str, list[Problem]] = {}
    for problem in problems:
        alike.setdefault(problem.kind, []).append(problem)
    for kind, group in alike.items():
        if group[0].value and len(group) > _SAME_VALUES:
            yield f"{group[0].text.removesuffix('.')}; {len(group) - 1} more values are like it."
            continue
        yield from (problem.text for problem in group[:_TOLD])
        if len(group) > _TOLD:
            yield f"{kind}: {len(group) - _TOLD} more."


def _check_lists(layout: Layout, report: Report) -> tuple[dict[str, int] | None, dict[str, int] | None]:
    """Both lists read in full with all problems reported; None for one without a row that can be read."""
    labels: dict[str, int] | None = None
    partition: dict[str, int] | None = None
    try:
        attributes = _attribute_names(layout.attributes)
        if not attributes:
            raise InputError(f"{layout.attributes}: no attribute column; restore CelebA's own file.")
        labels = read_column(layout.attributes, attributes[0], LABELS, attributes[1:], report) or None
    except InputError as error:
        report(Problem(kind=str(layout.attributes), text=str(error)))
    try:
        partition = read_column(layout.partition, PARTITION_COLUMN, PARTITIONS, (), report) or None
    except InputError as error:
        report(Problem(kind=str(layout.partition), text=str(error)))
    return labels, partition


def _fail(problem: Problem) -> NoReturn:
    """The reporter that stops at the first problem."""
    raise InputError(problem.text)


def _decode_problem(path: Path, error: BaseException) -> str:
    """One line for an image that cannot be read."""
    if isinstance(error, FileNotFoundError):
        return f"{path}: the image is gone; restore it, or open the data folder again."
    size = path.stat().st_size if path.is_file() else 0
    reason = " ".join(str(error).replace(str(path), "file").split())
    return (
        f"{path}: not a readable image ({size} bytes; {reason}); restore this file from the CelebA archive, "
        "or delete it together with its rows in both lists."
    )


def _is_turned(content: bytes) -> bool:
    """Whether an image file asks to be shown turned or mirrored; a file that is no image does not."""
    if b"Exif" not in content:
        return False
    try:
        with Image.open(io.BytesIO(content)) as file:
            return file.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)
    except _DECODE_ERRORS:
        return False


def _scaled(pixels: torch.Tensor) -> torch.Tensor:
    """Bytes as float32 in [-1, 1]; of a whole batch at once, since one image is hardly more than the calls' cost."""
    return pixels.contiguous().to(torch.float32).div_(255).sub_(0.5).div_(0.5)


def _square(image: Image.Image, size: int) -> Image.Image:
    """Shorter side resized to `size`, centre cut out; torchvision's rounding."""
    width, height = image.size
    short = min(width, height)
    wide, high = int(size * width / short), int(size * height / short)
    if (wide, high) != (width, height):
        image = image.resize((wide, high), Image.Resampling.BILINEAR)
    left, top = round((wide - size) / 2), round((high - size) / 2)
    return image.crop((left, top, left + size, top + size))


def _mismatches(
    layout: Layout, folder: Path, files: set[str], labels: Mapping[str, int], partition: Mapping[str, int]
) -> Iterator[Problem]:
    """One line for each image or row that lacks its counterpart, in order of file name."""
    attributes, split = layout.attributes, layout.partition
    for name in sorted(labels.keys() - files):
        text = f"{attributes}: {name!r} has a row but no image in {folder}; restore it or delete the row."
        yield Problem(kind=f"{attributes}: rows without an image", text=text)
    for lists, rows in ((attributes, labels), (split, partition)):
        for name in sorted(files - rows.keys()):
            text = f"{folder / name}: no row in {lists}; add one or delete the image."
            yield Problem(kind=f"{lists}: images without a row", text=text)
    for name in sorted(partition.keys() - files - labels.keys()):
        text = f"{split}: {name!r} has a row but no image in {folder}; restore it or delete the row."
        yield Problem(kind=f"{split}: rows without an image", text=text)
