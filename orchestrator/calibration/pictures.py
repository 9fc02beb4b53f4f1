"""Pictures of a folder: the public ones that calibrate an audit, and the truth where somebody has it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from fl_core.base.errors import InputError, first_line
from fl_core.data.decoding import DECODE_ERRORS, upright_pixels
from fl_core.data.synthetic.faces import render_face
from orchestrator.io.places import check_images_there
from orchestrator.library.images import ImageSpec

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


@dataclass(frozen=True, kw_only=True)
class PictureSet:
    """Pictures (N, C, H, W) with pixels in [0, 1], where they come from, and their classes where folders say them."""

    images: Tensor
    source: str
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()


def read_folder(folder: Path, image: ImageSpec, *, most: int | None = None, where: str) -> PictureSet:
    """All pictures below `folder`, by name, scaled and cropped to the network's size; at most so many, evenly chosen.

    Where every picture lies in one of two or more folders, these are classes, in the order of their names. Raises
    `InputError` for a folder without pictures and for a picture that cannot be read.
    """
    check_images_there(folder, where=where)
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES and path.is_file())
    if not paths:
        raise InputError(f"{where}: {folder} holds no image ({', '.join(_SUFFIXES)}).")
    names = sorted({path.parent.name for path in paths})
    if most is not None and len(paths) > most:
        paths = [paths[i * len(paths) // most] for i in range(most)]
    images = torch.stack([_picture(path, image, where) for path in paths])
    classed = len(names) > 1 and all(path.parent != folder for path in paths)
    labels = torch.tensor([names.index(path.parent.name) for path in paths]) if classed else None
    return PictureSet(
        images=images,
        source=f"{len(images)} images of {folder}",
        labels=labels,
        classes=tuple(names) if classed else (),
    )


def synthetic_pictures(image: ImageSpec, count: int) -> PictureSet:
    """Synthetic faces, where no public pictures are given."""
    faces = [_sized(Image.fromarray(render_face(seed=1, index=index)[0]), image) for index in range(count)]
    return PictureSet(images=torch.stack(faces), source=f"{count} synthetic faces")


def _picture(path: Path, image: ImageSpec, where: str) -> Tensor:
    try:
        with Image.open(path) as picture:
            picture.load()
            return _sized(picture, image)
    except (*DECODE_ERRORS, InputError) as error:
        raise InputError(f"{where}: {path} cannot be read: {first_line(error)}.") from error


def _sized(picture: Image.Image, image: ImageSpec) -> Tensor:
    return upright_pixels(picture, image.channels, image.height, image.width, "crop").float() / 255
