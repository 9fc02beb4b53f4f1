"""Pictures in Parquet files, in the layout of Hugging Face: `image`, a struct of bytes and path, and `label`."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from fl_core.base.errors import InputError, first_line, hint, listed
from fl_core.base.libraries import library
from fl_core.base.shape import ImageShape
from fl_core.data.dataset import ImageDataset, SplitName, fingerprint_of
from fl_core.data.decoding import Resize
from fl_core.data.splits import SeededSplit, completed, partition_by, ranks

_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "labels", "fine_label")
_SPLIT_WORDS: dict[str, SplitName] = {
    "train": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "test": "test",
}


@dataclass(frozen=True, kw_only=True)
class PictureColumn:
    """Encoded pictures in a column of Parquet files; one row group is read for a picture."""

    image: str
    rows: tuple[tuple[Path, int, int], ...]
    """For each picture its file, row group and row in the group."""

    def content(self, index: int) -> bytes:
        """See `PictureSource`."""
        file, group, row = self.rows[index]
        parquet = _pyarrow().ParquetFile(file)
        cell = parquet.read_row_group(group, columns=[self.image])[self.image][row].as_py()
        content = cell["bytes"] if isinstance(cell, dict) else cell
        if not isinstance(content, bytes):
            raise ValueError("the row has no bytes; files that only name a path are not followed")
        return content

    def picture(self, index: int) -> Image.Image:
        """See `PictureSource`."""
        return Image.open(io.BytesIO(self.content(index)))

    def where(self, index: int) -> str:
        """See `PictureSource`."""
        file, group, row = self.rows[index]
        return f"{file}: row {row} of row group {group}"


def open_parquet(
    root: Path, *, shape: ImageShape, resize: Resize = "crop", split: SeededSplit | None = None
) -> ImageDataset:
    """Open `root`, a Parquet file or a folder with some; labels are read, pictures are not.

    The first word of a file's name (`train-00000-of-00001.parquet`) names its split, where it is one. Class names
    come from the file's Hugging Face metadata where it has them.

    Raises:
        InputError: no such file, no picture or label column, a label that is null or negative.
    """
    files = _files(root)
    split = split or SeededSplit()
    image, label = _columns(files[0])
    rows: list[tuple[Path, int, int]] = []
    labels: list[int] = []
    given: list[SplitName | None] = []
    for file in files:
        word = _SPLIT_WORDS.get(file.stem.split("-")[0].lower())
        for group, values in enumerate(_labels(file, label)):
            rows += [(file, group, row) for row in range(len(values))]
            labels += values
            given += [word] * len(values)
    if not rows:
        raise InputError(f"{root}: no rows in it.")
    names = [f"{file.relative_to(root) if root.is_dir() else file.name}:{g}:{r}" for file, g, r in rows]
    classes = _class_names(files[0], label, max(labels))
    named = [word for word in given if word is not None]
    if len(named) == len(given):
        partition, added = completed(named, names, split)
        rule = f"{root} (names of the files{f'; {added}' if added else ''})"
    else:
        partition, rule = partition_by(split, names), f"{root} ({split})"
    sizes = [f"{file.name} {file.stat().st_size}" for file in files]
    numbers = np.array(labels, dtype=np.int64)
    return ImageDataset(
        root=root,
        source=PictureColumn(image=image, rows=tuple(rows)),
        shape=shape,
        resize=resize,
        classes=classes,
        names=np.array(names),
        labels=torch.from_numpy(numbers),
        partition=partition,
        ranks=ranks(split, names),
        split_by=rule,
        fingerprint=fingerprint_of(
            "parquet", str(split.seed), f"{shape} {resize}", classes, names, numbers, partition, sizes
        ),
    )


def _files(root: Path) -> list[Path]:
    files = sorted(root.rglob("*.parquet")) if root.is_dir() else [root] if root.is_file() else []
    if not files:
        raise InputError(f"{root}: no Parquet file; name a .parquet file or a folder with some.")
    return files


def _columns(file: Path) -> tuple[str, str]:
    """The names of the picture's and the label's column."""
    names = _opened(file).schema_arrow.names
    found = []
    for what, known in (("picture", _IMAGE_COLUMNS), ("label", _LABEL_COLUMNS)):
        there = [name for name in known if name in names]
        if not there:
            raise InputError(
                f"{file}: no column of {what}s among {listed(names)}.{hint(known[0], names)} Known: {listed(known)}."
            )
        found.append(there[0])
    return found[0], found[1]


def _labels(file: Path, column: str) -> list[list[int]]:
    """The labels of each row group."""
    parquet = _opened(file)
    if column not in parquet.schema_arrow.names:
        raise InputError(f"{file}: no column {column!r}, which the first file has.")
    found = []
    for group in range(parquet.num_row_groups):
        values: Sequence[Any] = parquet.read_row_group(group, columns=[column])[column].to_pylist()
        for value in values:
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise InputError(f"{file}: {column} holds {value!r}; must be integers from 0.")
        found.append(list(values))
    return found


def _class_names(file: Path, label: str, largest: int) -> tuple[str, ...]:
    metadata = _opened(file).schema_arrow.metadata or {}
    names: object = None
    with contextlib.suppress(KeyError, TypeError, ValueError):
        names = json.loads(metadata[b"huggingface"])["info"]["features"][label]["names"]
    if isinstance(names, list) and len(names) > largest and all(isinstance(name, str) for name in names):
        return tuple(names)
    return tuple(str(number) for number in range(max(2, largest + 1)))


def _opened(file: Path) -> Any:
    try:
        return _pyarrow().ParquetFile(file)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{file}: not a readable Parquet file ({first_line(error)}).") from error


def _pyarrow() -> Any:
    return library("pyarrow.parquet", "Parquet data need it: pip install pyarrow")
