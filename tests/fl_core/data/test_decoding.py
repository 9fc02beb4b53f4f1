"""From files of every kind to pixels: orientation, modes, sizes, and what is said of them."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional

from fl_core.base.errors import InputError
from fl_core.data.decoding import conversion, upright_pixels

RED = (220, 20, 30)


def stored(picture: Image.Image, kind: str, **options: object) -> Image.Image:
    """The picture as it comes back from a file of a kind."""
    content = io.BytesIO()
    picture.save(content, kind, **options)
    return Image.open(io.BytesIO(content.getvalue()))


def photo(width: int = 12, height: int = 8) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees to the right
    turned = stored(photo(), "PNG", exif=exif)
    assert conversion(turned, 3) == "turned as its EXIF data ask"
    found = upright_pixels(turned, 3, 12, 8, "none")
    upright = torch.from_numpy(np.array(photo())).permute(2, 0, 1)
    assert torch.equal(found, torch.rot90(upright, -1, (1, 2)))


def test_transparency_lies_on_white() -> None:
    clear = Image.new("RGBA", (4, 4), (*RED, 0))
    half = Image.new("RGBA", (4, 4), (0, 0, 0, 128))
    assert upright_pixels(stored(clear, "PNG"), 3, 4, 4, "none").unique().tolist() == [255]
    assert upright_pixels(stored(half, "PNG"), 1, 4, 4, "none").unique().tolist() == [127]
    assert conversion(stored(clear, "PNG"), 3) == "transparency laid on white"


def test_a_palettes_transparent_colour_lies_on_white() -> None:
    palette = Image.new("RGB", (4, 4), RED).quantize(2)
    palette.info["transparency"] = 0
    found = stored(palette, "PNG", transparency=0)
    assert found.mode == "P"
    pixels = upright_pixels(found, 3, 4, 4, "none")
    assert pixels[:, 0, 0].tolist() in ([255, 255, 255], list(RED))
    assert "palette resolved" in str(conversion(found, 3))


@pytest.mark.parametrize(("value", "eight"), [(0, 0), (65535, 255), (257 * 100, 100)])
def test_sixteen_bits_become_eight(value: int, eight: int) -> None:
    deep = stored(Image.fromarray(np.full((4, 4), value, dtype=np.uint16)), "PNG")
    assert upright_pixels(deep, 1, 4, 4, "none").unique().tolist() == [eight]
    assert upright_pixels(deep, 3, 4, 4, "none").unique().tolist() == [eight]
    assert "16 bits a number reduced to 8" in str(conversion(deep, 1))


def test_cmyk_becomes_rgb() -> None:
    printed = stored(Image.new("RGB", (8, 8), RED).convert("CMYK"), "JPEG", quality=100)
    assert printed.mode == "CMYK"
    middle = upright_pixels(printed, 3, 8, 8, "none")[:, 4, 4].int()
    assert (middle - torch.tensor(RED)).abs().max() <= 6
    assert conversion(printed, 3) == "CMYK converted to RGB"


def test_channels_follow_what_is_asked_for() -> None:
    grey = photo().convert("L")
    assert upright_pixels(grey, 3, 8, 12, "none").shape == (3, 8, 12)
    assert upright_pixels(photo(), 1, 8, 12, "none").shape == (1, 8, 12)
    assert conversion(grey, 3) == "grey repeated in three channels"
    assert conversion(photo(), 1) == "colour reduced to grey"
    assert conversion(photo(), 3) is None


def test_floats_are_refused() -> None:
    with pytest.raises(InputError, match="no range"):
        upright_pixels(Image.fromarray(np.zeros((4, 4), dtype=np.float32)), 1, 4, 4, "none")


@pytest.mark.parametrize(("width", "height"), [(12, 8), (8, 12), (9, 9), (200, 31)])
def test_a_square_crop_is_torchvisions(width: int, height: int) -> None:
    picture = photo(width, height)
    expected = functional.center_crop(functional.resize(picture, [8]), [8, 8])
    assert torch.equal(upright_pixels(picture, 3, 8, 8, "crop"), functional.pil_to_tensor(expected))


@pytest.mark.parametrize(("height", "width"), [(6, 4), (4, 6), (3, 9)])
def test_a_crop_keeps_proportions_and_a_stretch_does_not(height: int, width: int) -> None:
    half = Image.new("RGB", (60, 60), (0, 0, 0))
    half.paste((255, 255, 255), (30, 0, 60, 60))
    for resize in ("crop", "stretch"):
        found = upright_pixels(half, 1, height, width, resize)  # type: ignore[arg-type]
        assert found.shape == (1, height, width)
        assert abs(float(found.float().mean()) - 127.5) < 30


def test_another_size_is_refused_where_none_is_allowed() -> None:
    with pytest.raises(InputError, match=r"12 pixels wide and 8 high, not 8 and 8; use data\.resize"):
        upright_pixels(photo(), 3, 8, 8, "none")
