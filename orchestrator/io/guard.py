"""Keeps the writes of a sweep inside its results folder."""

from __future__ import annotations

import os
from pathlib import Path

from fl_core.base.errors import InputError


def refuse_links(folder: Path) -> None:
    """Raise `InputError` where a symbolic link lies anywhere in a results folder; the folder itself may be one.

    Folders are handed around. A link in one would lead writes, and the removal of captures, to another place.
    """
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent) / name
            if path.is_symlink():
                raise InputError(
                    f"{path} is a link to {path.readlink()}; a results folder must hold none: remove it."
                )
