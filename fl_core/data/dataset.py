"""Labelled pictures from any source: what every other part of the project asks of a data set."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

from fl_core.base.errors import InputError, unknown_name
from fl_core.base.shape import ImageShape
from fl_core.data.decoding import DECODE_ERRORS, upright_pixels
from fl_core.data.resize import Resize

if TYPE_CHECKING:
    import torch

SplitName = Literal["train", "valid", "test"]

SPLITS: Mapping[SplitName, int] = {"train": 0, "valid": 1, "test": 2}
"""The numbers of `ImageDataset.partition`."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What a picture is: its name, its label, a digest of its bytes.

    `turned` says that the file asks to be shown turned or mirrored (EXIF orientation), as `ImageDataset` does.
    """

    name: str
    label: int
    digest: str
    turned: bool


class PictureSource(Protocol):
    """Where the pictures of a data set come from; cheap to pickle to worker processes."""

    @property
    def place(self) -> Path:
        """The folder or file that all of them lie in."""

    def content(self, index: int) -> bytes:
        """The bytes that picture `index` is stored as; raises `OSError` where they cannot be read."""

    def picture(self, index: int) -> Image.Image:
        """Picture `index`, decoded or not yet; raises one of `DECODE_ERRORS` for bytes that are no picture."""

    def where(self, index: int) -> str:
        """Where picture `index` is stored, for messages."""


@dataclass(frozen=True, kw_only=True)
class PictureFiles:
    """Pictures that are files under one folder."""

    folder: Path
    names: npt.NDArray[np.str_]

    @property
    def place(self) -> Path:
        """See `PictureSource`."""
        return self.folder

    def content(self, index: int) -> bytes:
        """See `PictureSource`."""
        return (self.folder / str(self.names[index])).read_bytes()

    def picture(self, index: int) -> Image.Image:
        """See `PictureSource`."""
        return Image.open(self.folder / str(self.names[index]))

    def where(self, index: int) -> str:
        """See `PictureSource`."""
        return str(self.folder / str(self.names[index]))


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageDataset:
    """Labelled pictures that are decoded one by one on access; cheap to pickle to worker processes.

    Attributes:
        root: the folder or file that was opened.
        source: where the pictures come from.
        shape: the size that every picture is given.
        resize: how it comes to that size.
        classes: the names of the labels 0, 1, ...
        names: what identifies each picture, unicode (n,).
        labels: int64 (n,), positions in `classes`.
        partition: int8 (n,), 0 / 1 / 2 for train / valid / test.
        ranks: int64 (n,), the order in which `split` takes pictures; None for their own. Sets that are stored class by
            class have a seeded one, so that the first pictures of a split are of all classes.
        split_by: where the partition comes from, for messages: a file, or a rule.
        fingerprint: 16 hex digits that change with the names, the labels, the partition and the shape. The bytes of
            pictures are no part of it: `picture` has a digest of each, which sweeps note for those that they use.
        earlier_fingerprints: the same as earlier versions computed it.
        remedy: how a picture that cannot be read is mended, for messages.
    """

    root: Path
    source: PictureSource
    shape: ImageShape
    resize: Resize = "crop"
    classes: tuple[str, ...]
    names: npt.NDArray[np.str_]
    labels: torch.Tensor
    partition: npt.NDArray[np.int8]
    ranks: npt.NDArray[np.int64] | None = None
    split_by: str
    fingerprint: str
    earlier_fingerprints: tuple[str, ...] = ()
    remedy: str = "restore or remove it"

    def __len__(self) -> int:
        return len(self.names)

    def split(self, name: SplitName, limit: int | None = None) -> list[int]:
        """Indices of one split in order, the first `limit` of them if given.

        Raises:
            InputError: no such split, nothing in it, or fewer than `limit` images in it.
        """
        if name not in SPLITS:
            raise unknown_name("split", name, SPLITS)
        if limit is not None and limit < 1:
            raise InputError(f"A limit of {limit} images for split {name!r} is too small; use 1 or more.")
        found = np.flatnonzero(self.partition == SPLITS[name])
        if self.ranks is not None:
            found = found[np.argsort(self.ranks[found])]
        indices: list[int] = found.tolist()
        if not indices:
            raise InputError(
                f"{self.split_by}: split {name!r} is empty; put images into it (partition {SPLITS[name]}), "
                "or use another split."
            )
        if limit is not None and limit > len(indices):
            raise InputError(
                f"{self.split_by}: split {name!r} has {len(indices)} images, fewer than the {limit} asked for; "
                f"ask for at most {len(indices)}, or use a larger data folder."
            )
        return indices[:limit]

    def image(self, index: int, *, flip: bool = False) -> torch.Tensor:
        """Image `index` as float32 (C, H, W) in [-1, 1], mirrored left to right if `flip`.

        Raises:
            InputError: the picture is gone, or is no whole picture.
        """
        return scaled(self._pixels(index, flip))

    def batch(
        self, indices: Sequence[int], flips: Sequence[bool] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (B, C, H, W) float32 and labels (B,) int64 of `indices`; `flips` mirrors image by image.

        Raises:
            InputError: a picture is gone, or is no whole picture.
            ValueError: `indices` is empty, or `flips` has another length.
        """
        if len(indices) == 0:
            raise ValueError("A batch needs at least one index.")
        import torch

        mirrored = [False] * len(indices) if flips is None else flips
        images = [self._pixels(i, flip) for i, flip in zip(indices, mirrored, strict=True)]
        return scaled(torch.stack(images)), self.labels[list(indices)]

    def picture(self, index: int) -> Picture:
        """What picture `index` is, from its bytes; raises `InputError` where they cannot be read."""
        try:
            content = self.source.content(index)
        except OSError as error:
            raise InputError(self._problem(index, error)) from error
        return Picture(
            name=str(self.names[index]),
            label=int(self.labels[index]),
            digest=hashlib.sha256(content).hexdigest()[:16],
            turned=_is_turned(content),
        )

    def _pixels(self, index: int, flip: bool) -> torch.Tensor:
        """Image `index` as uint8 (C, H, W)."""
        shape = self.shape
        try:
            with self.source.picture(index) as picture:
                pixels = upright_pixels(picture, shape.channels, shape.height, shape.width, self.resize)
        except InputError as error:
            raise InputError(f"{self.source.where(index)}: {error}.") from error
        except DECODE_ERRORS as error:
            raise InputError(self._problem(index, error)) from error
        return pixels.flip(-1) if flip else pixels

    def _problem(self, index: int, error: BaseException) -> str:
        return decode_problem(self.source.where(index), error, self.remedy)


def decode_problem(where: str, error: BaseException, remedy: str) -> str:
    """One line for a picture that cannot be read."""
    if isinstance(error, FileNotFoundError):
        return f"{where}: the image is gone; restore it, or open the data folder again."
    path = Path(where)
    size = f"{path.stat().st_size} bytes; " if path.is_file() else ""
    reason = " ".join(str(error).replace(where, "file").split())
    return f"{where}: not a readable image ({size}{reason}); {remedy}."


def fingerprint_of(*parts: str | Iterable[str] | npt.NDArray[np.generic]) -> str:
    """16 hex digits of texts, lists of texts and arrays, in order."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            content = np.ascontiguousarray(part).tobytes()
        else:
            content = (part if isinstance(part, str) else "\n".join(part)).encode()
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()[:16]


def scaled(pixels: torch.Tensor) -> torch.Tensor:
    """Bytes as float32 in [-1, 1]; of a whole batch at once, since one image is hardly more than the calls' cost."""
    import torch

    return pixels.contiguous().to(torch.float32).div_(255).sub_(0.5).div_(0.5)


def _is_turned(content: bytes) -> bool:
    """Whether an image file asks to be shown turned or mirrored; a file that is no image does not."""
    if b"Exif" not in content:
        return False
    try:
        with Image.open(io.BytesIO(content)) as file:
            return file.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)
    except DECODE_ERRORS:
        return False
