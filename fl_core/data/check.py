"""Every picture of a data set, decoded: which cannot be read, and what is changed in the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from fl_core.base.errors import InputError, listed
from fl_core.data.dataset import SPLITS, ImageDataset
from fl_core.data.decoding import DECODE_ERRORS, conversion

_TOLD = 10
"""At most so many pictures that cannot be read are named."""


def check_pictures(
    dataset: ImageDataset, progress: Callable[[int, int], None] | None = None
) -> Iterator[str]:
    """The problems of a data set's pictures, one line each; nothing when all can be read at the asked size.

    Args:
        dataset: the data set; pictures are decoded one at a time.
        progress: called with (pictures decoded, pictures in all) after each picture.
    """
    broken = 0
    for index in range(len(dataset)):
        try:
            dataset.image(index)
        except InputError as error:
            broken += 1
            if broken <= _TOLD:
                yield str(error)
        if progress is not None:
            progress(index + 1, len(dataset))
    if broken > _TOLD:
        yield f"{dataset.root}: {broken - _TOLD} more images cannot be read."


def conversions(dataset: ImageDataset) -> Counter[str]:
    """What is changed in pictures beside their size, in words, and in how many; unreadable ones are left out."""
    found: Counter[str] = Counter()
    for index in range(len(dataset)):
        try:
            with dataset.source.picture(index) as picture:
                change = conversion(picture, dataset.shape.channels)
        except DECODE_ERRORS:
            continue
        if change is not None:
            found[change] += 1
    return found


def described(dataset: ImageDataset, *, classes: str | None = None) -> list[str]:
    """What a data set holds, in lines: pictures, classes, splits, and what is changed in pictures.

    `classes` is what the first line says in place of the classes' names.
    """
    sizes = ", ".join(f"{int((dataset.partition == number).sum())} {name}" for name, number in SPLITS.items())
    held = f"{len(dataset.classes)} classes: {listed(dataset.classes)}"
    lines = [
        f"{len(dataset)} pictures, {classes or held}",
        f"{sizes}; from {dataset.split_by}",
    ]
    return lines + [f"{count} pictures: {change}" for change, count in conversions(dataset).most_common()]
