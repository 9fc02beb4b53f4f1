"""The canvas of a synthetic portrait: coordinates, soft shapes, compositing and photographic texture.

Everything is float32, values in [0, 1], planes of (128, 112) pixels. Coordinates are face coordinates: x to
the right and y down, one unit being one pixel of the 109 x 89 picture, origin between the eyes.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.fft

Array = npt.NDArray[np.floating[Any]]
Region = tuple[slice, slice]

HEIGHT, WIDTH = 128, 112
# Canvas position of the point between the eyes.
CENTER_Y, CENTER_X = 65.0, 55.75
EVERYWHERE: Region = (slice(None), slice(None))


def coordinates(where: Region = EVERYWHERE) -> tuple[Array, Array]:
    """Rows y (h, 1) and columns x (1, w) of the region `where` in face coordinates, read-only."""
    y, x = _axes()
    return y[where[0]], x[:, where[1]]


@cache
def _axes() -> tuple[Array, Array]:
    """All rows y (128, 1) and columns x (1, 112)."""
    y = (np.arange(HEIGHT, dtype=np.float32) - CENTER_Y)[:, None]
    x = (np.arange(WIDTH, dtype=np.float32) - CENTER_X)[None, :]
    return _frozen(y), _frozen(x)


@cache
def polar() -> tuple[Array, Array]:
    """Radius in pixels and angle in radians around the middle of the head, each (128, 112), read-only."""
    y, x = _axes()
    return _frozen(np.hypot(x, y - 4)), _frozen(np.arctan2(x, -(y - 4)))


def _frozen(values: Array) -> Array:
    """`values` as read-only float32: what is cached is shared, so nobody may write to it."""
    frozen: Array = values.astype(np.float32)
    frozen.flags.writeable = False
    return frozen


def region(x: float, y: float, half_width: float, half_height: float) -> Region:
    """The part of the canvas within `half_width` and `half_height` pixels of (x, y); maybe empty."""
    left, right = int(x - half_width + CENTER_X), int(x + half_width + CENTER_X) + 2
    top, bottom = int(y - half_height + CENTER_Y), int(y + half_height + CENTER_Y) + 2
    return slice(max(0, top), max(0, bottom)), slice(max(0, left), max(0, right))


def between(rng: np.random.Generator, low: float, high: float) -> float:
    """One uniform draw in [low, high)."""
    return low + (high - low) * rng.random()


def tint(red: float, green: float, blue: float) -> Array:
    """A colour as (3, 1, 1)."""
    return np.array([[[red]], [[green]], [[blue]]], dtype=np.float32)


def random_tint(rng: np.random.Generator, chroma: float) -> Array:
    """A colour (3, 1, 1): brightness from dark to light with both ends frequent, then `chroma` of hue."""
    share = rng.random()
    brightness = 0.5 * share + 0.25 - 0.25 * math.cos(math.pi * share)
    # Daylight and lamps vary between blue and amber far more than between green and purple.
    amber, green = 0.02 + 1.1 * chroma * rng.standard_normal(), 0.5 * chroma * rng.standard_normal()
    channels = (brightness + amber - 0.5 * green, brightness + green, brightness - amber - 0.5 * green)
    return tint(*(min(max(channel, 0.0), 1.0) for channel in channels))


def clamp(values: Array, low: float, high: float) -> Array:
    """`values` limited to [low, high]; on small arrays several times faster than `numpy.clip`."""
    limited: Array = np.minimum(np.maximum(values, low), high)
    return limited


def soft(distance: Array, width: float = 1.2) -> Array:
    """Coverage in [0, 1] of an edge `width` pixels wide, from the signed distance to it (inside > 0)."""
    coverage = distance * (1 / width)
    coverage += 0.5
    np.maximum(coverage, 0, out=coverage)
    np.minimum(coverage, 1, out=coverage)
    return coverage


def inside(half_width: Array, shift: Array | float = 0.0, where: Region = EVERYWHERE) -> Array:
    """Signed distance (h, w) in pixels to the outline |x - shift| = half_width, positive inside.

    `half_width` is (h, 1), one value per row of the region `where`, negative where the shape has no part.
    """
    slope = np.zeros_like(half_width)
    slope[1:] = np.minimum(np.abs(half_width[1:] - half_width[:-1]), 6)
    # Rows without a part of the shape stay as far outside as they are told to be.
    slope[half_width < 0] = 0
    distance: Array = half_width - np.abs(coordinates(where)[1] - shift)
    distance *= 1 / np.sqrt(1 + slope * slope)
    return distance


def silhouette(
    half_width: Array, shift: Array | float = 0.0, width: float = 1.2, where: Region = EVERYWHERE
) -> Array:
    """Coverage (h, w) of the shape |x - shift| < half_width in the region `where`, see `inside`."""
    return soft(inside(half_width, shift, where), width)


def blend(image: Array, mask: Array | float, paint: Array, where: Region = EVERYWHERE) -> None:
    """Lay `paint`, (3, 1, 1) or (3, h, w), over the region `where` of `image` as far as `mask` covers it."""
    target = image[:, where[0], where[1]]
    change = paint - target
    change *= mask
    target += change


def blob(x: float, y: float, sigma_x: float, sigma_y: float) -> tuple[Array, Region]:
    """A Gaussian bump of height 1 at (x, y), cut at 2.5 sigma, and its region."""
    where = region(x, y, 2.5 * sigma_x, 2.5 * sigma_y)
    rows, columns = coordinates(where)
    bump = np.exp(-0.5 * ((rows - y) / sigma_y) ** 2) * np.exp(-0.5 * ((columns - x) / sigma_x) ** 2)
    return bump, where


def shade(image: Array, spot: tuple[Array, Region], strength: float) -> None:
    """Multiply `image` by 1 + strength * bump in the region of a `blob`; negative strengths darken."""
    bump, where = spot
    image[:, where[0], where[1]] *= 1 + strength * bump


def sharpen(image: Array, amount: float) -> None:
    """Add `amount` times each pixel's difference from the mean of its four neighbours to `image`."""
    around = image[:, :-2, 1:-1] + image[:, 2:, 1:-1]
    around += image[:, 1:-1, :-2]
    around += image[:, 1:-1, 2:]
    around *= amount / 4
    inner = image[:, 1:-1, 1:-1]
    inner *= 1 + amount
    inner -= around


@cache
def _spectra() -> tuple[Array, Array]:
    """Amplitude filters (128, 112): a power law for surfaces, and strands that run along the columns."""
    fy = scipy.fft.fftfreq(HEIGHT).astype(np.float32)[:, None]
    fx = scipy.fft.fftfreq(WIDTH).astype(np.float32)[None, :]
    radius = np.hypot(fy, fx)
    radius[0, 0] = 1
    surface = radius**-1.2
    strand = np.exp(-0.5 * (fy * 40) ** 2) * (np.abs(fx) + 0.02) ** -0.5
    filters = []
    for amplitude in (surface, strand):
        amplitude[0, 0] = 0
        # Unit variance for each of the two fields that one complex transform gives.
        scale = HEIGHT * WIDTH / np.sqrt((amplitude**2).sum())
        filters.append(_frozen(amplitude * scale))
    return filters[0], filters[1]


def textures(rng: np.random.Generator) -> tuple[Array, Array, Array, Array]:
    """Two surface textures and two strand textures, Gaussian with unit variance, each (128, 112)."""
    # Uniform draws do: the transform sums thousands of them, and they cost a third of Gaussian ones.
    noise = rng.random((HEIGHT, 2 * WIDTH), dtype=np.float32)
    noise -= 0.5
    noise *= math.sqrt(12)
    surface, strand = _spectra()
    both = scipy.fft.ifft2(noise.view(np.complex64) * surface, overwrite_x=True)
    strands = scipy.fft.ifft2(noise.view(np.complex64) * strand, overwrite_x=True)
    # Copies: strided views would slow down each later use.
    return both.real.copy(), both.imag.copy(), strands.real.copy(), strands.imag.copy()
