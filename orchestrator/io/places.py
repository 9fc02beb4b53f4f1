"""Folders that a person names: whether they are there, and those that are made for what is to come."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from fl_core.base.errors import InputError, hint


def check_folder_there(folder: Path) -> None:
    """Raise `InputError` where there is no folder of this name, with the nearest one beside it."""
    try:
        if folder.is_dir():
            return
        beside = (path.name for path in folder.parent.iterdir() if path.is_dir())
        near = hint(folder.name, beside) if folder.parent.is_dir() else ""
    except OSError:
        near = ""
    what = "is no folder" if folder.exists() else "is not there"
    raise InputError(f"{folder} {what}; give the results folder of a sweep.{near}")


def check_images_there(folder: Path, *, where: str) -> None:
    """Raise `InputError` where there is no folder of this name; `where` is the option that names it."""
    if not folder.is_dir():
        raise InputError(f"{where}: {folder} is no folder of images.")


@contextlib.contextmanager
def made_for(folder: Path) -> Iterator[Path]:
    """`folder`, made at once, so that one that cannot be written is told of before any work.

    Where the work fails, the folders that were made for it and are still empty are taken away again.
    """
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    except BaseException:
        with contextlib.suppress(OSError):
            for each in made:
                each.rmdir()
        raise
