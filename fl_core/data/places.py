"""Folders and files that users name: whether they are there and can be read, and which one was meant."""

from __future__ import annotations

import difflib
import itertools
import os
import stat
from pathlib import Path

from fl_core.base.errors import InputError

CLASSES = "a folder of pictures for each class"
"""What a folder of classes holds, in messages."""


def expanded(path: str | Path) -> Path:
    """The path with `~` and `~NAME` as home folders; raises `InputError` where there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(f"{path}: this machine has no such home folder; name the folder in full.") from error


def check_folder(root: Path, holds: str) -> None:
    """Raise `InputError` where `root` is no folder that can be read, with the nearest one that is there.

    `holds` says in the message what the right folder holds.
    """
    mode = _seen(root, "the data folder")
    if not mode:
        raise InputError(_missing(root, holds))
    if not stat.S_ISDIR(mode):
        raise InputError(f"{root}: this is a file and not a data folder; name the folder that holds {holds}.")


def array_file(root: Path) -> Path:
    """The .npz file that is meant: `root`, or the one in it; raises `InputError` for none or several."""
    mode = _seen(root, "the file or folder")
    if stat.S_ISDIR(mode):
        files = sorted(root.glob("*.npz"))
        if len(files) != 1:
            raise InputError(f"{root}: {len(files)} .npz files in it; name the one that is meant.")
        return files[0]
    if not mode:
        raise InputError(f"{root}: no such file; name an .npz file with images and labels.")
    return root


def parquet_files(root: Path) -> list[Path]:
    """The Parquet files that are meant: `root`, or those under it, sorted; raises `InputError` for none."""
    mode = _seen(root, "the file or folder")
    files = sorted(root.rglob("*.parquet")) if stat.S_ISDIR(mode) else [root] if mode else []
    if not files:
        raise InputError(f"{root}: no Parquet file; name a .parquet file or a folder with some.")
    return files


def _seen(root: Path, what: str) -> int:
    """What is at `root`, as the system has it, 0 for nothing; raises `InputError` for `what` may not be looked at."""
    try:
        mode = root.stat().st_mode
        if stat.S_ISDIR(mode):
            os.scandir(root).close()
    except (FileNotFoundError, NotADirectoryError):
        return 0
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{root}: {what} cannot be read ({reason}); name one that can.") from error
    return mode


def _missing(root: Path, holds: str) -> str:
    where = "" if root.is_absolute() else f" in {Path.cwd()}"
    near = _nearest(root)
    hint = f" Did you mean {near}?" if near else ""
    return f"{root}: no such data folder{where}.{hint} Name the folder that holds {holds}."


def _nearest(root: Path) -> Path | None:
    """A folder whose path is like that of `root`, which is missing: the first part that is missing is replaced."""
    for missing, present in itertools.pairwise([root, *root.parents]):
        if is_folder(present):
            beside = {folder.name.lower(): folder for folder in folders_in(present)}
            near = difflib.get_close_matches(missing.name.lower(), beside, n=1, cutoff=0.6)
            if not near:
                return None
            whole = beside[near[0]] / root.relative_to(missing)
            return whole if is_folder(whole) else beside[near[0]]
    return None


def folders_in(root: Path) -> list[Path]:
    """The folders in `root`, sorted; none where it may not be listed."""
    try:
        with os.scandir(root) as entries:
            return sorted(root / entry.name for entry in entries if entry.is_dir())
    except OSError:
        return []


def is_there(path: Path) -> bool:
    """Whether anything is at `path`; what may not be looked at, or can be no path, is not."""
    return _mode(path) != 0


def is_folder(path: Path) -> bool:
    """Whether a folder is at `path`."""
    return stat.S_ISDIR(_mode(path))


def _mode(path: Path) -> int:
    """What is at `path`, as the system has it; 0 for nothing, and for what may not be looked at."""
    try:
        return path.stat().st_mode
    except (OSError, ValueError):
        return 0
