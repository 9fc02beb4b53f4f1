"""CelebA on disk: a folder of JPEGs and two CSV files, opened without decoding a single image.

The layout, under one root folder, is that of the aligned and cropped release (Liu et al., "Deep Learning
Face Attributes in the Wild", ICCV 2015) with its lists as CSV:

- `img_align_celeba/*.jpg`, or the same folder nested once more, as some archives unpack;
- `list_attr_celeba.csv`: `image_id` and one column of -1 / 1 per attribute;
- `list_eval_partition.csv`: `image_id` and `partition`, 0 / 1 / 2 for train / valid / test.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, NoReturn

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from fl_core.errors import InputError, unknown_name

SplitName = Literal["train", "valid", "test"]

IMAGE_FOLDER = "img_align_celeba"
ATTRIBUTE_CSV = "list_attr_celeba.csv"
PARTITION_CSV = "list_eval_partition.csv"

_ID_COLUMN = "image_id"
_PARTITION_COLUMN = "partition"
_SPLITS: Mapping[str, int] = {"train": 0, "valid": 1, "test": 2}
_LABELS: Mapping[str, int] = {"-1": 0, "1": 1}
_PARTITIONS: Mapping[str, int] = {"0": 0, "1": 1, "2": 2}
# What Pillow raises for bytes that are no image, or not a whole one.
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)

# Told about each problem: raises at the first one (opening) or collects them (checking).
_Report = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, eq=False)
class FaceDataset:
    """Labelled faces that are decoded one by one on access; cheap to pickle to worker processes.

    Attributes:
        root: the folder that was opened.
        folder: where the JPEGs lie.
        attribute: the CelebA attribute behind `labels`.
        image_size: side S of the square images, in pixels.
        names: file names, unicode (n,), in the row order of the attribute file.
        labels: int64 (n,), 1 where the attribute holds and 0 where not.
        partition: int8 (n,), 0 / 1 / 2 for train / valid / test.
    """

    root: Path
    folder: Path
    attribute: str
    image_size: int
    names: npt.NDArray[np.str_]
    labels: torch.Tensor
    partition: npt.NDArray[np.int8]

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
        where = self.root / PARTITION_CSV
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
                square = _square(file if file.mode == "RGB" else file.convert("RGB"), self.image_size)
        except _DECODE_ERRORS as error:
            raise InputError(_decode_problem(path, error)) from error
        pixels = torch.from_numpy(np.array(square)).permute(2, 0, 1)
        return pixels.flip(-1) if flip else pixels

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that change with the CSV bytes, the attribute, the image size or the file names."""
        digest = hashlib.sha256(f"{self.attribute}\n{self.image_size}\n".encode())
        for name in (ATTRIBUTE_CSV, PARTITION_CSV):
            digest.update(hashlib.sha256((self.root / name).read_bytes()).digest())
        digest.update("\n".join(self.names.tolist()).encode())
        return digest.hexdigest()[:16]


def open_celeba(root: Path, *, attribute: str = "Male", image_size: int = 64) -> FaceDataset:
    """Open the data folder `root`: read both CSV files, list the images once, decode none.

    Raises:
        InputError: a missing folder, file or column, a malformed row, an unknown attribute, or images and
            rows that do not match. The message names the file, the value and the remedy.
    """
    if image_size < 1:
        raise InputError(f"An image size of {image_size} pixels is too small; use 1 or more.")
    folder, files = _list_images(root)
    attributes = read_attribute_names(root)
    if attribute not in attributes:
        raise unknown_name("attribute", attribute, attributes)
    labels = _read_column(root / ATTRIBUTE_CSV, attribute, _LABELS, (), _fail)
    partition = _read_column(root / PARTITION_CSV, _PARTITION_COLUMN, _PARTITIONS, (), _fail)
    for problem in _mismatches(root, folder, files, labels, partition):
        _fail(problem)
    return FaceDataset(
        root=root,
        folder=folder,
        attribute=attribute,
        image_size=image_size,
        names=np.array(list(labels)),
        labels=torch.tensor(list(labels.values()), dtype=torch.int64),
        partition=np.array([partition[name] for name in labels], dtype=np.int8),
    )


def read_attribute_names(root: Path) -> list[str]:
    """The attribute columns of `root`'s attribute file, in its order.

    Raises:
        InputError: the file is missing, not text, or has no `image_id` column.
    """
    with _CsvRows(root / ATTRIBUTE_CSV) as rows:
        return [column for column in rows.header if column != _ID_COLUMN]


def check_celeba(root: Path, progress: Callable[[int, int], None] | None = None) -> Iterator[str]:
    """Every problem of the data folder `root`, one line each; nothing when the folder is fine.

    Reads every value of both CSV files and decodes every image, holding one at a time.

    Args:
        root: the data folder.
        progress: called with (images decoded, images in all) after each image.
    """
    problems: list[str] = []
    folder, files = root / IMAGE_FOLDER, set[str]()
    try:
        folder, files = _list_images(root)
    except InputError as error:
        problems.append(str(error))
    labels: dict[str, int] | None = None
    partition: dict[str, int] | None = None
    if root.is_dir():
        labels, partition = _check_tables(root, problems.append)
    yield from problems
    if files and labels is not None and partition is not None:
        yield from _mismatches(root, folder, files, labels, partition)
    for done, name in enumerate(sorted(files), start=1):
        try:
            with Image.open(folder / name) as file:
                file.load()
        except _DECODE_ERRORS as error:
            yield _decode_problem(folder / name, error)
        if progress is not None:
            progress(done, len(files))


def _check_tables(root: Path, report: _Report) -> tuple[dict[str, int] | None, dict[str, int] | None]:
    """Both CSV files read in full with all problems reported; None for one that cannot be read at all."""
    labels: dict[str, int] | None = None
    partition: dict[str, int] | None = None
    try:
        attributes = read_attribute_names(root)
        if not attributes:
            raise InputError(f"{root / ATTRIBUTE_CSV}: no attribute column; restore CelebA's own file.")
        labels = _read_column(root / ATTRIBUTE_CSV, attributes[0], _LABELS, attributes[1:], report)
    except InputError as error:
        report(str(error))
    try:
        partition = _read_column(root / PARTITION_CSV, _PARTITION_COLUMN, _PARTITIONS, (), report)
    except InputError as error:
        report(str(error))
    return labels, partition


def _fail(problem: str) -> NoReturn:
    """The reporter that stops at the first problem."""
    raise InputError(problem)


def _decode_problem(path: Path, error: BaseException) -> str:
    """One line for an image that cannot be read."""
    if isinstance(error, FileNotFoundError):
        return f"{path}: the image is gone; restore it, or open the data folder again."
    size = path.stat().st_size if path.is_file() else 0
    reason = " ".join(str(error).replace(str(path), "file").split())
    return (
        f"{path}: not a readable image ({size} bytes; {reason}); restore this file from the CelebA archive, "
        "or delete it together with its rows in both CSV files."
    )


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


def _list_images(root: Path) -> tuple[Path, set[str]]:
    """The folder that holds the JPEGs, flat or nested twice, and their names."""
    if not root.is_dir():
        raise InputError(
            f"{root}: no such data folder; name the folder that holds {IMAGE_FOLDER}/, {ATTRIBUTE_CSV} and "
            f"{PARTITION_CSV}, or write synthetic faces there first."
        )
    folder = root / IMAGE_FOLDER
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; unpack CelebA's {IMAGE_FOLDER}.zip into {root}.")
    names = _jpeg_names(folder)
    nested = folder / IMAGE_FOLDER
    if not names and nested.is_dir():
        folder, names = nested, _jpeg_names(nested)
    if not names:
        raise InputError(f"{folder}: no *.jpg in it; unpack CelebA's {IMAGE_FOLDER}.zip into {root}.")
    return folder, names


def _jpeg_names(folder: Path) -> set[str]:
    """Names of the JPEGs right under `folder`; hidden files, such as macOS leaves in archives, are not."""
    with os.scandir(folder) as entries:
        return {entry.name for entry in entries if entry.name.endswith(".jpg") and entry.name[0] != "."}


class _CsvRows:
    """A CSV file with its header read; iterating gives (line number, fields) of each non-empty row."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = path.open(newline="", encoding="utf-8-sig")
        except OSError as error:
            raise InputError(
                f"{path}: cannot be opened ({error.strerror}); put CelebA's {path.name} there."
            ) from error
        self._reader = csv.reader(self._file)
        try:
            self.header = self._read_header()
        except InputError:
            self._file.close()
            raise

    def __enter__(self) -> _CsvRows:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[tuple[int, list[str]]]:
        try:
            for row in self._reader:
                if row:
                    yield self._reader.line_num, row
        except (csv.Error, UnicodeDecodeError) as error:
            raise self._unreadable(error) from error

    def _read_header(self) -> list[str]:
        try:
            header = [column.strip() for column in next(self._reader, [])]
        except (csv.Error, UnicodeDecodeError) as error:
            raise self._unreadable(error) from error
        if _ID_COLUMN not in header:
            raise InputError(
                f"{self.path}: no column {_ID_COLUMN!r} in line 1; restore CelebA's own {self.path.name}."
            )
        return header

    def _unreadable(self, error: Exception) -> InputError:
        line = self._reader.line_num + 1
        return InputError(
            f"{self.path}: not CSV text near line {line} ({error}); restore CelebA's {self.path.name}."
        )


def _read_column(
    path: Path, column: str, meaning: Mapping[str, int], others: Sequence[str], report: _Report
) -> dict[str, int]:
    """File name -> `meaning` of `column`, in row order, the values of the columns `others` judged too.

    Rows with a problem are told to `report` and, if it returns, skipped.
    """
    allowed = " or ".join(meaning)
    table: dict[str, int] = {}
    with _CsvRows(path) as rows:
        if column not in rows.header:
            raise InputError(f"{path}: no column {column!r}; restore CelebA's own {path.name}.")
        at_name, at_value, width = rows.header.index(_ID_COLUMN), rows.header.index(column), len(rows.header)
        at_others = [rows.header.index(other) for other in others]
        for line, row in rows:
            if len(row) != width:
                report(f"{path}, line {line}: {len(row)} fields instead of {width}; mend or delete this row.")
                continue
            name = row[at_name]
            if name in table:
                report(f"{path}, line {line}: a second row for {name!r}; delete one of the two.")
                continue
            value = meaning.get(row[at_value].strip())
            bad = [i for i in at_others if row[i].strip() not in meaning]
            for i in sorted([at_value, *bad] if value is None else bad):
                what = f"{rows.header[i]} of {name!r} is {row[i]!r}"
                report(f"{path}, line {line}: {what}; it must be {allowed}.")
            # A row with a bad value is still a row for its image: keep it, or each would be told twice.
            table[name] = -1 if value is None else value
    if not table:
        report(f"{path}: no rows; restore CelebA's own {path.name}.")
    return table


def _mismatches(
    root: Path, folder: Path, files: set[str], labels: Mapping[str, int], partition: Mapping[str, int]
) -> Iterator[str]:
    """One line for each image or row that lacks its counterpart, in order of file name."""
    attribute_csv, partition_csv = root / ATTRIBUTE_CSV, root / PARTITION_CSV
    for name in sorted(labels.keys() - files):
        yield f"{attribute_csv}: {name!r} has a row but no image in {folder}; restore it or delete the row."
    for name in sorted(files - labels.keys()):
        yield f"{folder / name}: no row in {attribute_csv}; add one or delete the image."
    for name in sorted(files - partition.keys()):
        yield f"{folder / name}: no row in {partition_csv}; add one or delete the image."
    for name in sorted(partition.keys() - files - labels.keys()):
        yield f"{partition_csv}: {name!r} has a row but no image in {folder}; restore it or delete the row."
