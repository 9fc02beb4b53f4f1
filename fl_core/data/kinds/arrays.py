"""Pictures in one NumPy file: `images` uint8 (n, H, W), (n, H, W, 1) or (n, H, W, 3), and `labels` (n,)."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from fl_core.base.errors import InputError, first_line, hint, listed
from fl_core.base.shape import ImageShape
from fl_core.data.dataset import SPLITS, ImageDataset, SplitName
from fl_core.data.kinds.assemble import assemble
from fl_core.data.places import array_file
from fl_core.data.resize import Resize
from fl_core.data.splits import SeededSplit

_READ_ERRORS = (OSError, ValueError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error)
"""What broken archives and arrays raise; `MemoryError` where a header asks for more than there is."""
_KEYS = ("images", "labels", "split", "classes")


@dataclass(frozen=True, kw_only=True, eq=False)
class PictureArray:
    """Pictures that are rows of an array in memory."""

    file: Path
    images: npt.NDArray[np.uint8]

    @property
    def place(self) -> Path:
        """See `PictureSource`."""
        return self.file

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
    file = array_file(root)
    arrays = _read(file)
    images, labels = _images(file, arrays), _labels(file, arrays)
    if len(labels) != len(images):
        raise InputError(f"{file}: {len(images)} images and {len(labels)} labels; must be as many.")
    splits = _splits(file, arrays["split"], len(images)) if "split" in arrays else [None] * len(images)
    return assemble(
        "arrays",
        root,
        PictureArray(file=file, images=images),
        shape=shape,
        resize=resize,
        split=split,
        names=[f"{index:06d}" for index in range(len(images))],
        labels=[int(label) for label in labels],
        classes=_classes(file, arrays, labels),
        given=splits,
        given_by="array split",
        content=images,
    )


def _read(file: Path) -> dict[str, npt.NDArray[np.generic]]:
    """The arrays of an `.npz` file by name; raises `InputError` for others than `_KEYS`, or none that are plain."""
    arrays: dict[str, npt.NDArray[np.generic]] = {}
    try:
        with zipfile.ZipFile(file) as content:
            for entry in content.namelist():
                name = entry.removesuffix(".npy")
                if name not in _KEYS:
                    raise InputError(
                        f"{file}: unknown array {name!r}.{hint(name, _KEYS)} Known: {listed(_KEYS)}."
                    )
                with content.open(entry) as stream:
                    arrays[name] = np.lib.format.read_array(stream, allow_pickle=False)
    except InputError:
        raise
    except _READ_ERRORS as error:
        raise InputError(
            f"{file}: not a readable .npz file of plain arrays ({first_line(error)})."
        ) from error
    return arrays


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


def _labels(file: Path, arrays: dict[str, npt.NDArray[np.generic]]) -> npt.NDArray[np.integer[Any]]:
    labels = _array(file, arrays, "labels")
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or (len(labels) and labels.min() < 0):
        raise InputError(f"{file}: labels is {labels.dtype} {labels.shape}; must be integers from 0, (n,).")
    return labels  # type: ignore[return-value]


def _classes(
    file: Path, arrays: dict[str, npt.NDArray[np.generic]], labels: npt.NDArray[np.integer[Any]]
) -> list[str] | None:
    """The names in the file, where it has them."""
    if "classes" not in arrays:
        return None
    names, needed = arrays["classes"], int(labels.max()) + 1
    if names.ndim != 1 or names.dtype.kind != "U" or len(names) < max(2, needed):
        raise InputError(
            f"{file}: classes is {names.dtype} {names.shape}; must be texts, one for each label up to {needed - 1}."
        )
    return [str(name) for name in names]


def _splits(file: Path, values: npt.NDArray[np.generic], count: int) -> list[SplitName | None]:
    known: dict[object, SplitName] = {
        **{name: name for name in SPLITS},
        **{n: name for name, n in SPLITS.items()},
    }
    if values.shape != (count,):
        raise InputError(f"{file}: split has the shape {values.shape}; must be ({count},).")
    found: list[SplitName | None] = []
    for value in values.tolist():
        if value not in known:
            raise InputError(f"{file}: split holds {value!r}; must be train, valid or test, or 0, 1 or 2.")
        found.append(known[value])
    return found


def _array(file: Path, arrays: dict[str, npt.NDArray[np.generic]], name: str) -> npt.NDArray[np.generic]:
    if name not in arrays:
        raise InputError(f"{file}: no array {name!r} in it, only {listed(arrays) or 'none at all'}.")
    return arrays[name]
