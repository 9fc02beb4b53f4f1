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
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np
from PIL import Image

from fl_core.base.errors import InputError, listed, unknown_name
from fl_core.base.shape import ImageShape
from fl_core.data.dataset import ImageDataset, PictureFiles, decode_problem
from fl_core.data.decoding import DECODE_ERRORS
from fl_core.data.kinds.celeba_folder import Layout
from fl_core.data.kinds.celeba_lists import (
    ID_COLUMN,
    LABELS,
    PARTITION_COLUMN,
    PARTITIONS,
    ListFile,
    Problem,
    Report,
    read_column,
)
from fl_core.data.resize import Resize

_SAME_VALUES = 3
"""Up to so many cells with the same wrong value are told one by one in a check."""
_TOLD = 10
"""The same for problems of any other kind."""
_MOST_ATTRIBUTES = 10
"""More would make more than a thousand classes."""
_REMEDY = "restore this file from the CelebA archive, or delete it together with its rows in both lists"


def open_celeba(
    root: Path,
    *,
    attributes: Sequence[str] = ("Male",),
    shape: ImageShape | None = None,
    resize: Resize = "crop",
) -> ImageDataset:
    """Open the data folder `root`: read both lists, list the images once, decode none.

    One attribute gives two classes, k attributes give 2^k: the first is the most significant bit of the label, so
    that `("Male", "Smiling")` has the classes `not Male + not Smiling`, `not Male + Smiling`, `Male + not Smiling`,
    `Male + Smiling`. Pictures are 3x64x64 where no `shape` is given.

    Raises:
        InputError: a missing folder, file or column, a malformed row, an unknown attribute, or images and
            rows that do not match. The message names the file, the value and the remedy.
    """
    shape = shape or ImageShape(height=64, width=64)
    if not 1 <= len(attributes) <= _MOST_ATTRIBUTES or len(set(attributes)) != len(attributes):
        raise InputError(
            f"{len(attributes)} attributes ({listed(attributes)}): name from 1 to {_MOST_ATTRIBUTES}, each once."
        )
    layout = Layout.of(root)
    folder, files = layout.jpegs()
    known = _attribute_names(layout.attributes)
    for attribute in attributes:
        if attribute not in known:
            raise unknown_name("attribute", attribute, known)
    columns = [read_column(layout.attributes, attribute, LABELS, (), _fail) for attribute in attributes]
    partition = read_column(layout.partition, PARTITION_COLUMN, PARTITIONS, (), _fail)
    first = columns[0]
    for problem in _mismatches(layout, folder, files, first, partition):
        _fail(problem)
    import torch

    lists = (layout.attributes, layout.partition)
    names = "\n".join(first).encode()
    start = _settings(attributes, shape, resize)
    stored = np.array(list(first))
    return ImageDataset(
        root=root,
        source=PictureFiles(folder=folder, names=stored),
        shape=shape,
        resize=resize,
        classes=attribute_classes(attributes),
        names=stored,
        labels=torch.tensor([_label(columns, name) for name in first], dtype=torch.int64),
        partition=np.array([partition[name] for name in first], dtype=np.int8),
        split_by=str(layout.partition),
        fingerprint=_fingerprint(start, (_canonical(path) for path in lists), names),
        earlier_fingerprints=(_fingerprint(start, (path.read_bytes() for path in lists), names),),
        remedy=_REMEDY,
    )


def attribute_classes(attributes: Sequence[str]) -> tuple[str, ...]:
    """The names of the classes that attributes give, in the order of their labels."""
    held = [(f"not {name}", name) for name in attributes]
    return tuple(" + ".join(names) for names in itertools.product(*held))


def _label(columns: Sequence[Mapping[str, int]], name: str) -> int:
    label = 0
    for column in columns:
        label = 2 * label + column[name]
    return label


def _settings(attributes: Sequence[str], shape: ImageShape, resize: Resize) -> bytes:
    """What the fingerprint begins with; for one attribute and RGB squares as it always was."""
    square = shape.channels == 3 and shape.height == shape.width and resize == "crop"
    size = str(shape.height) if square else f"{shape} {resize}"
    return f"{' '.join(attributes)}\n{size}\n".encode()


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
        except DECODE_ERRORS as error:
            broken += 1
            if broken <= _TOLD:
                yield decode_problem(str(folder / name), error, _REMEDY)
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
