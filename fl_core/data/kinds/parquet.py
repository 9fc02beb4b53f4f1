"""Pictures in Parquet files, in the layout of Hugging Face: `image`, a struct of bytes and path, and `label`."""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from fl_core.base.errors import InputError, first_line, hint, listed
from fl_core.base.libraries import library
from fl_core.base.shape import ImageShape
from fl_core.data.dataset import ImageDataset, SplitName
from fl_core.data.kinds.assemble import assemble
from fl_core.data.places import parquet_files
from fl_core.data.resize import Resize
from fl_core.data.splits import SeededSplit

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
    """Encoded pictures in a column of Parquet files; a process keeps the row groups that it read last."""

    root: Path
    image: str
    rows: tuple[tuple[Path, int, int], ...]
    """For each picture its file, row group and row in the group."""

    @property
    def place(self) -> Path:
        """See `PictureSource`."""
        return self.root

    def content(self, index: int) -> bytes:
        """See `PictureSource`."""
        file, group, row = self.rows[index]
        cell = _row_group(file, file.stat().st_mtime_ns, group, self.image)[row].as_py()
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
    files = parquet_files(root)
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
    return assemble(
        "parquet",
        root,
        PictureColumn(root=root, image=image, rows=tuple(rows)),
        shape=shape,
        resize=resize,
        split=split,
        names=[f"{file.relative_to(root) if root.is_dir() else file.name}:{g}:{r}" for file, g, r in rows],
        labels=labels,
        classes=_class_names(files[0], label),
        given=given,
        given_by="names of the files",
        content=[f"{file.name} {file.stat().st_size}" for file in files],
    )


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


def _class_names(file: Path, label: str) -> list[str] | None:
    """The names in the file's Hugging Face metadata, where it has them."""
    metadata = _opened(file).schema_arrow.metadata or {}
    try:
        names = json.loads(metadata[b"huggingface"])["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None


@functools.lru_cache(maxsize=4)
def _row_group(file: Path, changed: int, group: int, column: str) -> Any:  # noqa: ARG001 - a part of the key
    """A column of a row group as this process has it read: pictures of a batch mostly lie together.

    `changed` is when the file was changed, so that another content is read again.
    """
    return _pyarrow().ParquetFile(file).read_row_group(group, columns=[column])[column]


def _opened(file: Path) -> Any:
    try:
        return _pyarrow().ParquetFile(file)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{file}: not a readable Parquet file ({first_line(error)}).") from error


def _pyarrow() -> Any:
    return library("pyarrow.parquet", "Parquet data need it: pip install pyarrow")
