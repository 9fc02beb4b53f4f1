"""Finds the parts of CelebA under a data folder; where one is missing, says which nearby folder may hold it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fl_core.base.errors import InputError
from fl_core.data.places import check_folder, folders_in, is_folder, is_there

IMAGE_FOLDER = "img_align_celeba"


ATTRIBUTE_CSV = "list_attr_celeba.csv"


PARTITION_CSV = "list_eval_partition.csv"


_IMAGES = (IMAGE_FOLDER, f"Img/{IMAGE_FOLDER}")


_ATTRIBUTES = (ATTRIBUTE_CSV, "list_attr_celeba.txt", "Anno/list_attr_celeba.txt")


_PARTITION = (PARTITION_CSV, "list_eval_partition.txt", "Eval/list_eval_partition.txt")


_LOOKED_AT = 200
"""At most so many folders are looked into for a data set that lies deeper than the one that was named."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The parts of a data folder; a list that is missing is named as the CSV file that would be read."""

    root: Path
    images: Path
    attributes: Path
    partition: Path

    @classmethod
    def of(cls, root: Path) -> Layout:
        """Find the parts under `root`.

        Raises `InputError` where there is no such folder, or no folder of images in it; the message names the folder
        that was meant, where one is near.
        """
        check_folder(root, PARTS)
        if not has_images(root):
            raise InputError(
                f"{root / IMAGE_FOLDER}: no such folder; {elsewhere(root) or f'unpack {_ZIP} into {root}'}."
            )
        return cls(
            root=root,
            images=root / _first(root, _IMAGES),
            attributes=root / _first(root, _ATTRIBUTES),
            partition=root / _first(root, _PARTITION),
        )

    def jpegs(self) -> tuple[Path, set[str]]:
        """The folder that holds the JPEGs, flat or nested once more, and their names; raises `InputError`."""
        folder = self.images
        names = _jpeg_names(folder)
        nested = folder / IMAGE_FOLDER
        if not names and is_folder(nested):
            folder, names = nested, _jpeg_names(nested)
        if not names:
            near = elsewhere(self.root) or f"unpack {_ZIP} into {self.root}"
            raise InputError(f"{folder}: no *.jpg in it; {near}.")
        return folder, names


_ZIP = f"CelebA's {IMAGE_FOLDER}.zip"


def has_images(root: Path) -> bool:
    """Whether a folder of images lies under `root`, as CelebA has it."""
    return any(is_folder(root / name) for name in _IMAGES)


def elsewhere(root: Path) -> str | None:
    """Advice where a data set lies above or below the folder `root`; None where none is found."""
    for above in (root.absolute().parent, root.absolute().parent.parent):
        if _is_whole(above):
            return f"{root} is a part of a data folder: name {above} instead"
    for below in _below(root):
        if _is_whole(below):
            return f"the data lie deeper: name {below} instead"
    return None


PARTS = f"{IMAGE_FOLDER}/, {ATTRIBUTE_CSV} and {PARTITION_CSV}"
"""What a data folder of CelebA holds, for messages."""


def _below(root: Path) -> Iterator[Path]:
    """Folders in `root`, then folders in these."""
    inside = folders_in(root)[:_LOOKED_AT]
    yield from inside
    for folder in inside:
        yield from folders_in(folder)[:_LOOKED_AT]


def _is_whole(root: Path) -> bool:
    lists = (_first(root, _ATTRIBUTES), _first(root, _PARTITION))
    return has_images(root) and all(is_there(root / name) for name in lists)


def _first(root: Path, names: tuple[str, ...]) -> str:
    """The first of these names that is there, else the first of them."""
    return next((name for name in names if is_there(root / name)), names[0])


def _jpeg_names(folder: Path) -> set[str]:
    """Names of the JPEGs right under `folder`; hidden files, such as macOS leaves in archives, are not."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.name.endswith(".jpg") and entry.name[0] != "."}
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed ({error.strerror}); mend its rights.") from error
