"""From a decoded picture to pixels: upright, with one or three channels, at the size that a network takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

from fl_core.base.errors import InputError
from fl_core.data.resize import Resize

if TYPE_CHECKING:
    import torch

DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
"""What Pillow raises for bytes that are no picture, or not a whole one."""

_MODES = {1: "L", 3: "RGB"}
_DEEP = ("I;16", "I;16B", "I;16L", "I")
_WHITE = (255, 255, 255, 255)


def conversion(picture: Image.Image, channels: int) -> str | None:
    """What `upright_pixels` changes in a picture beside its size, in words; None for nothing."""
    changes = []
    if picture.getexif().get(0x0112, 1) in range(2, 9):
        changes.append("turned as its EXIF data ask")
    if picture.mode in _DEEP:
        changes.append("16 bits a number reduced to 8")
    if picture.mode == "CMYK":
        changes.append("CMYK converted to RGB")
    if "A" in picture.getbands() or "transparency" in picture.info:
        changes.append("transparency laid on white")
    if picture.mode == "P":
        changes.append("palette resolved")
    if channels == 3 and picture.mode in ("1", "L", "LA", *_DEEP):
        changes.append("grey repeated in three channels")
    if channels == 1 and picture.mode not in ("1", "L", "LA", *_DEEP):
        changes.append("colour reduced to grey")
    return ", ".join(changes) or None


def upright_pixels(
    picture: Image.Image, channels: int, height: int, width: int, resize: Resize
) -> torch.Tensor:
    """A picture as uint8 (channels, height, width).

    EXIF orientation is applied, transparency is laid on white, palettes are resolved, CMYK becomes RGB by Pillow's
    rule, 16 bits a number become 8. Scaling is bilinear with antialiasing.

    Raises:
        InputError: a mode without a known range (32-bit floats), or another size where `resize` is `none`.
    """
    import torch

    image = _flat(ImageOps.exif_transpose(picture), _MODES[channels])
    sized = _RESIZES[resize](image, height, width)
    pixels = torch.from_numpy(np.array(sized))
    return pixels.permute(2, 0, 1) if channels == 3 else pixels[None]


def _flat(image: Image.Image, mode: str) -> Image.Image:
    """The picture in `mode`, without transparency."""
    if image.mode == mode and "transparency" not in image.info:
        return image
    if image.mode in _DEEP:
        deep = np.asarray(image).astype(np.int64)
        image = Image.fromarray((deep.clip(0, 65535) // 257).astype(np.uint8))
    elif image.mode == "F":
        raise InputError(
            "32-bit floats have no range that is known to be black and white; store 8 or 16 bits"
        )
    elif "A" in image.getbands() or "transparency" in image.info:
        over = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", over.size, _WHITE), over)
    return image if image.mode == mode else image.convert(mode)


def _cropped(image: Image.Image, height: int, width: int) -> Image.Image:
    """Scaled until it covers the size, centre cut out; torchvision's rounding."""
    w, h = image.size
    wide, high = (width, int(width * h / w)) if width * h >= height * w else (int(height * w / h), height)
    if (wide, high) != (w, h):
        image = image.resize((wide, high), Image.Resampling.BILINEAR)
    left, top = round((wide - width) / 2), round((high - height) / 2)
    return image.crop((left, top, left + width, top + height))


def _stretched(image: Image.Image, height: int, width: int) -> Image.Image:
    same = image.size == (width, height)
    return image if same else image.resize((width, height), Image.Resampling.BILINEAR)


def _unchanged(image: Image.Image, height: int, width: int) -> Image.Image:
    if image.size != (width, height):
        w, h = image.size
        raise InputError(
            f"it is {w} pixels wide and {h} high, not {width} and {height}; use data.resize: crop or stretch"
        )
    return image


_RESIZES: dict[Resize, Callable[[Image.Image, int, int], Image.Image]] = {
    "crop": _cropped,
    "stretch": _stretched,
    "none": _unchanged,
}
