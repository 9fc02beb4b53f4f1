"""A folder for each class, with pictures in it: `root/CLASS/*.jpg`, or `root/train/CLASS/*.jpg` and so on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from fl_core.base.errors import InputError, hint, listed
from fl_core.base.shape import ImageShape
from fl_core.data.dataset import ImageDataset, PictureFiles, SplitName
from fl_core.data.kinds.assemble import assemble
from fl_core.data.places import CLASSES, check_folder
from fl_core.data.resize import Resize
from fl_core.data.splits import SeededSplit

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
"""Files with one of these endings, in capitals too, are pictures; of animations the first frame is taken."""

_SPLIT_FOLDERS: Mapping[str, SplitName] = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "val": "valid",
    "validation": "valid",
    "test": "test",
}


def open_folder(
    root: Path, *, shape: ImageShape, resize: Resize = "crop", split: SeededSplit | None = None
) -> ImageDataset:
    """Open class folders: list the pictures once, decode none.

    Where `root` holds a folder `train` (beside `valid` or `val`, and `test`), these are the splits, and `split` says
    what is taken of `train` for one that is missing. Else `split` cuts all pictures. Classes are the names of the
    folders in alphabetical order, over all splits; pictures lie anywhere below their class's folder.

    Raises:
        InputError: no such folder, no class folders, fewer than two classes, or no pictures.
    """
    check_folder(root, CLASSES)
    parts = _parts(root)
    found = [
        (folder, part, path)
        for folder, part in parts.items()
        for path in sorted(_pictures(folder), key=lambda path: path.as_posix())
    ]
    if not found:
        raise InputError(f"{root}: {_nothing(root)}")
    labels_of = [path.relative_to(folder).parts[0] for folder, _, path in found]
    classes = tuple(sorted(set(labels_of)))
    if len(classes) < 2:
        raise InputError(
            f"{root}: all {len(found)} pictures lie in one class folder ({classes[0]!r}); name the folder above the "
            "classes, with at least two of them."
        )
    names = [path.relative_to(root).as_posix() for _, _, path in found]
    numbers = {name: number for number, name in enumerate(classes)}
    return assemble(
        "folder",
        root,
        PictureFiles(folder=root, names=np.array(names)),
        shape=shape,
        resize=resize,
        split=split,
        names=names,
        labels=[numbers[name] for name in labels_of],
        classes=classes,
        given=[part for _, part, _ in found],
        given_by="folders train, valid, test",
    )


def _parts(root: Path) -> dict[Path, SplitName | None]:
    """The folders that hold the classes, and the split of each; None where the data set has none itself."""
    inside = [path for path in sorted(root.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    named = {path: _SPLIT_FOLDERS.get(path.name.lower()) for path in inside}
    if "train" not in named.values():
        return {root: None}
    several = [name for name, count in Counter(filter(None, named.values())).items() if count > 1]
    if several:
        twice = [path.name for path, name in named.items() if name == several[0]]
        raise InputError(f"{root}: {listed(twice)} all say {several[0]!r}; keep one of them.")
    stray = [path.name for path, name in named.items() if name is None and any(_pictures(path))]
    if stray:
        raise InputError(
            f"{root}: {stray[0]!r} holds pictures beside the folder of the training split;"
            f"{hint(stray[0], _SPLIT_FOLDERS)} move it into train, valid or test, or out of {root}."
        )
    return {path: name for path, name in named.items() if name is not None}


def _pictures(folder: Path) -> Iterator[Path]:
    """Files below the class folders of `folder` whose names end as pictures' do; hidden ones are none."""
    for path in folder.rglob("*"):
        parts = path.relative_to(folder).parts
        if len(parts) > 1 and path.suffix.lower() in ENDINGS and not any(p.startswith(".") for p in parts):
            yield path


def _nothing(root: Path) -> str:
    loose = [path for path in sorted(root.iterdir()) if path.suffix.lower() in ENDINGS]
    if loose:
        return (
            f"pictures such as {loose[0].name!r} lie in no class folder; put those of each class into a folder of "
            "its name."
        )
    return f"no pictures ({listed(ENDINGS)}) in folders of their classes."
