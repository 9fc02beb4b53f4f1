"""Finds the parts of CelebA under a data folder; where one is missing, says which nearby folder may hold it."""

from __future__ import annotations

import difflib
import itertools
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fl_core.base.errors import InputError

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
        check_folder(root)
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
        if not names and _is_folder(nested):
            folder, names = nested, _jpeg_names(nested)
        if not names:
            near = elsewhere(self.root) or f"unpack {_ZIP} into {self.root}"
            raise InputError(f"{folder}: no *.jpg in it; {near}.")
        return folder, names


_ZIP = f"CelebA's {IMAGE_FOLDER}.zip"


def expanded(path: str | Path) -> Path:
    """The path with `~` and `~NAME` as home folders; raises `InputError` where there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(f"{path}: this machine has no such home folder; name the folder in full.") from error


def has_images(root: Path) -> bool:
    """Whether a folder of images lies under `root`, as CelebA has it."""
    return any(_is_folder(root / name) for name in _IMAGES)


def elsewhere(root: Path) -> str | None:
    """Advice where a data set lies above or below the folder `root`; None where none is found."""
    for above in (root.absolute().parent, root.absolute().parent.parent):
        if _is_whole(above):
            return f"{root} is a part of a data folder: name {above} instead"
    for below in _below(root):
        if _is_whole(below):
            return f"the data lie deeper: name {below} instead"
    return None


def check_folder(root: Path) -> None:
    """Raise `InputError` where `root` is no folder that can be read, with the nearest one that is there."""
    try:
        if stat.S_ISDIR(root.stat().st_mode):
            os.scandir(root).close()
            return
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(_missing(root)) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{root}: the data folder cannot be read ({reason}); name one that can.") from error
    raise InputError(f"{root}: this is a file and not a data folder; name the folder that holds {_PARTS}.")


_PARTS = f"{IMAGE_FOLDER}/, {ATTRIBUTE_CSV} and {PARTITION_CSV}"


def _missing(root: Path) -> str:
    where = "" if root.is_absolute() else f" in {Path.cwd()}"
    near = _nearest(root)
    hint = f" Did you mean {near}?" if near else ""
    return f"{root}: no such data folder{where}.{hint} Name the folder that holds {_PARTS}."


def _nearest(root: Path) -> Path | None:
    """A folder whose path is like that of `root`, which is missing: the first part that is missing is replaced."""
    for missing, present in itertools.pairwise([root, *root.parents]):
        if _is_folder(present):
            beside = {folder.name.lower(): folder for folder in _folders(present)}
            near = difflib.get_close_matches(missing.name.lower(), beside, n=1, cutoff=0.6)
            if not near:
                return None
            whole = beside[near[0]] / root.relative_to(missing)
            return whole if _is_folder(whole) else beside[near[0]]
    return None


def _below(root: Path) -> Iterator[Path]:
    """Folders in `root`, then folders in these."""
    inside = _folders(root)[:_LOOKED_AT]
    yield from inside
    for folder in inside:
        yield from _folders(folder)[:_LOOKED_AT]


def _folders(root: Path) -> list[Path]:
    try:
        with os.scandir(root) as entries:
            return sorted(root / entry.name for entry in entries if entry.is_dir())
    except OSError:
        return []


def is_there(path: Path) -> bool:
    """Whether anything is at `path`; what may not be looked at, or can be no path, is not."""
    return _mode(path) != 0


def _is_folder(path: Path) -> bool:
    return stat.S_ISDIR(_mode(path))


def _mode(path: Path) -> int:
    """What is at `path`, as the system has it; 0 for nothing, and for what may not be looked at."""
    try:
        return path.stat().st_mode
    except (OSError, ValueError):
        return 0


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
