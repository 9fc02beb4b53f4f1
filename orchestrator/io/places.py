"""Folders that a person names: whether they are there."""

from __future__ import annotations

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
