"""Pictures in one NumPy file: `images` uint8 (n, H, W), (n, H, W, 1) or (n, H, W, 3), and `labels` (n,)."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from fl_core.base.errors import InputError, hint, listed
from fl_core.base.shape import ImageShape
from fl_core.data.dataset import SPLITS, ImageDataset, SplitName, fingerprint_of
from fl_core.data.decoding import Resize
from fl_core.data.splits import SeededSplit, completed, partition_by, ranks

_KEYS = ("images", "labels", "split", "classes")


@dataclass(frozen=True, kw_only=True, eq=False)
class PictureArray:
    """Pictures that are rows of an array in memory."""

    file: Path
    images: npt.NDArray[np.uint8]

    def content(self, index: int) -> bytes:
        """See `PictureSource`: the pixels."""
        return bytes(self.images[index].tobytes())

    def picture(self, index: int) -> Image.Image:
        """See `PictureSource`."""
        pixels = self.images[index]
        return Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels)

    def where(self, index: int) -> str:
        """See `PictureSource`."""
        return f"{self.file}: images[{index}]"


def open_arrays(
    root: Path, *, shape: ImageShape, resize: Resize = "crop", split: SeededSplit | None = None
) -> ImageDataset:
    """Open `root`, an `.npz` file or a folder with one.

    Beside `images` and `labels` (integers from 0) the file may hold `split` (n,), texts `train`, `valid`, `test` or
    numbers 0, 1, 2, and `classes`, the names of the labels. Nothing is unpickled.

    Raises:
        InputError: no such file, an array that is missing, or has another type or length.
    """
    file = _file(root)
    split = split or SeededSplit()
    try:
        with np.load(file, allow_pickle=False) as content:
            unknown = [name for name in content.files if name not in _KEYS]
            if unknown:
                raise InputError(
                    f"{file}: unknown array {unknown[0]!r}.{hint(unknown[0], _KEYS)} Known: {listed(_KEYS)}."
                )
            arrays = {name: content[name] for name in content.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{file}: not a readable .npz file of plain arrays ({error}).") from error
    images, labels = _images(file, arrays), _labels(file, arrays)
    if len(labels) != len(images):
        raise InputError(f"{file}: {len(images)} images and {len(labels)} labels; must be as many.")
    classes = _classes(file, arrays, labels)
    names = [f"{index:06d}" for index in range(len(images))]
    if "split" in arrays:
        partition, added = completed(_splits(file, arrays["split"], len(images)), names, split)
        rule = f"{file} (array split{f'; {added}' if added else ''})"
    else:
        partition, rule = partition_by(split, names), f"{file} ({split})"
    return ImageDataset(
        root=root,
        source=PictureArray(file=file, images=images),
        shape=shape,
        resize=resize,
        classes=classes,
        names=np.array(names),
        labels=torch.from_numpy(labels),
        partition=partition,
        ranks=ranks(split, names),
        split_by=rule,
        fingerprint=fingerprint_of(
            "arrays", str(split.seed), f"{shape} {resize}", classes, labels, partition, images
        ),
    )


def _file(root: Path) -> Path:
    if root.is_dir():
        files = sorted(root.glob("*.npz"))
        if len(files) != 1:
            raise InputError(f"{root}: {len(files)} .npz files in it; name the one that is meant.")
        return files[0]
    if not root.is_file():
        raise InputError(f"{root}: no such file; name an .npz file with images and labels.")
    return root


def _images(file: Path, arrays: dict[str, npt.NDArray[np.generic]]) -> npt.NDArray[np.uint8]:
    images = _array(file, arrays, "images")
    right = images.dtype == np.uint8 and (
        images.ndim == 3 or (images.ndim == 4 and images.shape[-1] in (1, 3))
    )
    if not right or 0 in images.shape:
        raise InputError(
            f"{file}: images is {images.dtype} {images.shape}; must be uint8 (n, H, W), (n, H, W, 1) or (n, H, W, 3)."
        )
    return images  # type: ignore[return-value]


def _labels(file: Path, arrays: dict[str, npt.NDArray[np.generic]]) -> npt.NDArray[np.int64]:
    labels = _array(file, arrays, "labels")
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or (len(labels) and labels.min() < 0):
        raise InputError(f"{file}: labels is {labels.dtype} {labels.shape}; must be integers from 0, (n,).")
    return labels.astype(np.int64)


def _classes(
    file: Path, arrays: dict[str, npt.NDArray[np.generic]], labels: npt.NDArray[np.int64]
) -> tuple[str, ...]:
    needed = int(labels.max()) + 1
    if "classes" not in arrays:
        return tuple(str(label) for label in range(max(2, needed)))
    names = arrays["classes"]
    if names.ndim != 1 or names.dtype.kind != "U" or len(names) < max(2, needed):
        raise InputError(
            f"{file}: classes is {names.dtype} {names.shape}; must be texts, one for each label up to {needed - 1}."
        )
    return tuple(str(name) for name in names)


def _splits(file: Path, values: npt.NDArray[np.generic], count: int) -> list[SplitName]:
    known: dict[object, SplitName] = {
        **{name: name for name in SPLITS},
        **{n: name for name, n in SPLITS.items()},
    }
    if values.shape != (count,):
        raise InputError(f"{file}: split has the shape {values.shape}; must be ({count},).")
    found = []
    for value in values.tolist():
        if value not in known:
            raise InputError(f"{file}: split holds {value!r}; must be train, valid or test, or 0, 1 or 2.")
        found.append(known[value])
    return found


def _array(file: Path, arrays: dict[str, npt.NDArray[np.generic]], name: str) -> npt.NDArray[np.generic]:
    if name not in arrays:
        raise InputError(f"{file}: no array {name!r} in it, only {listed(arrays) or 'none at all'}.")
    return arrays[name]
