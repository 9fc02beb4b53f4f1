"""Painting one synthetic portrait: background, body, head, hair and hat under one light, then the camera.

A portrait is painted upright on the canvas of `fl_core.data.synthetic.canvas`, so that most shapes are products
of a row profile and a column profile, which keeps painting fast; the camera then turns and crops it.
Texture is noise with a power-law amplitude spectrum, as photographs have it (Field, "Relations between the
statistics of natural images and the response properties of cortical cells", J. Opt. Soc. Am. A 4, 1987).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from fl_core.data.synthetic.canvas import (
    CENTER_X,
    CENTER_Y,
    HEIGHT,
    WIDTH,
    Array,
    between,
    blend,
    blob,
    clamp,
    coordinates,
    inside,
    polar,
    random_tint,
    region,
    sharpen,
    silhouette,
    soft,
    tint,
)
from fl_core.data.synthetic.features import paint_earrings, paint_features
from fl_core.data.synthetic.scene import Scene, Traits

PICTURE_HEIGHT, PICTURE_WIDTH = 109, 89


def paint(traits: Traits, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """A portrait with `traits`, everything else drawn from `rng`: RGB, uint8 (109, 89, 3)."""
    scene = Scene.draw(traits, rng)
    _paint_background(scene)
    opening, outer = _hair_shapes(scene)
    hair = _hair_tints(scene)
    if traits.long_hair:
        low = (slice(int(CENTER_Y), HEIGHT), slice(0, WIDTH))
        behind = outer[low] * soft(coordinates(low)[0] - 12, 12)
        blend(scene.image, behind, hair[:, low[0]] * 0.55, low)
    _paint_body(scene)
    _paint_head(scene)
    paint_features(scene)
    if not traits.bald:
        blend(scene.image, outer * (1 - opening), hair)
    if traits.earrings:
        paint_earrings(scene)
    if traits.hat:
        _paint_hat(scene)
    return _photograph(scene)


def _paint_background(scene: Scene) -> None:
    """Two tints in a gradient, panels and discs out of focus, and surface texture."""
    rng, (y, x) = scene.rng, coordinates()
    chroma = 0.16 * rng.random() ** 2
    first = random_tint(rng, chroma)
    second = clamp(first + between(rng, 0.0, 0.6) * (random_tint(rng, chroma) - first), 0, 1)
    angle = between(rng, 0, 2 * math.pi)
    ramp = clamp(0.5 + (math.cos(angle) * x + math.sin(angle) * y) / 90, 0, 1)
    scene.image[:] = first + (second - first) * ramp
    busy = between(rng, 0.1, 1)
    for _ in range(int(11 * busy * busy)):
        _paint_panel(scene, chroma)
    for _ in range(int(10 * rng.random() * busy)):
        _paint_disc(scene, chroma)
    if rng.random() < 0.4:
        _paint_lettering(scene, random_tint(rng, 0.15))
    strength = between(rng, 0.01, 0.08) * (0.2 + busy)
    if rng.random() < 0.15:
        # Foliage, crowds and the like: patches with edges.
        patches = soft((scene.surface[1] - between(rng, -0.5, 1)) * 6, between(rng, 2, 8))
        blend(scene.image, patches * between(rng, 0.2, 0.5), random_tint(rng, chroma + 0.05))
    tone = 1 + 0.6 * chroma * rng.standard_normal((3, 1, 1), dtype=np.float32)
    scene.image += strength * tone * scene.surface[0]


def _paint_panel(scene: Scene, chroma: float) -> None:
    """A slanted rectangle, more or less out of focus."""
    rng = scene.rng
    slant = between(rng, -0.25, 0.25)
    width, height = between(rng, 2, 26), between(rng, 5, 60)
    blur = 1 + 6 * rng.random() ** 2
    center_x, center_y = between(rng, -50, 50), between(rng, -60, 50)
    where = region(center_x, center_y, width + 0.25 * height + blur, height + 0.25 * width + blur)
    rows, columns = coordinates(where)
    rows, columns = rows - center_y, columns - center_x
    mask = soft(width - np.abs(columns + slant * rows), blur)
    mask *= soft(height - np.abs(rows - slant * columns), blur)
    mask *= between(rng, 0.4, 1.0)
    blend(scene.image, mask, random_tint(rng, chroma + 0.05), where)


def _paint_disc(scene: Scene, chroma: float) -> None:
    """One disc of light out of focus."""
    rng = scene.rng
    radius, x, y = between(rng, 1.5, 10), between(rng, -48, 48), between(rng, -60, 55)
    where = region(x, y, radius + 4, radius + 4)
    rows, columns = coordinates(where)
    mask = soft(radius - np.hypot(rows - y, columns - x), 1 + 0.4 * radius)
    light = clamp(random_tint(rng, chroma + 0.1) + 0.15, 0, 1)
    blend(scene.image, mask * between(rng, 0.2, 0.9), light, where)


def _paint_lettering(scene: Scene, ink: Array) -> None:
    """Rows of strokes, like the print on a press wall."""
    rng = scene.rng
    pitch, height = between(rng, 3, 7), between(rng, 3, 7)
    for _ in range(int(between(rng, 1, 4))):
        left, top = between(rng, -55, 30), between(rng, -60, 20)
        for stroke in range(int(between(rng, 3, 8))):
            x, wide = left + stroke * pitch, rng.random() < 0.35
            where = region(x, top, (1.4 if wide else 0.5) * pitch / 3, height * (0.5 if wide else 1.0))
            blend(scene.image, 0.8, ink, where)


def _paint_body(scene: Scene) -> None:
    """Neck, shoulders and clothing."""
    # Nothing of the body shows above the chin's shadow.
    where = (slice(int(CENTER_Y) + 12, HEIGHT), slice(0, WIDTH))
    rng, traits, (y, x) = scene.rng, scene.traits, coordinates(where)
    half = (between(rng, 12.5, 15.5) if traits.male else between(rng, 9.5, 12)) * np.ones_like(y)
    half = half + 0.05 * np.maximum(y - 36, 0) ** 1.5
    dim = clamp(0.55 + (y - 26) / 44, 0.55, 0.85) * (1 - scene.light[0] * 0.02 * x)
    collar_y = between(rng, 31, 39)
    shoulder = soft(y - collar_y - between(rng, 0.05, 0.3) * np.abs(x), 1.5)
    cloth = random_tint(rng, between(rng, 0, 0.2)) * 0.85
    folds = 1 + 0.16 * scene.surface[1][where] + 0.06 * scene.strands[0][where]
    if rng.random() < 0.25:
        stripes = np.sin(x * between(rng, 0.5, 1.6) + y * between(rng, -1.5, 1.5))
        folds += between(rng, 0.1, 0.35) * stripes
    body = silhouette(half, scene.shift * 0.5, where=where)
    blend(scene.image, shoulder, cloth * folds, where)
    depth = between(rng, 0, 6) if traits.male else between(rng, 0, 20)
    neckline = soft(
        half * (1 + 0.3 * depth / 20) - np.abs(x) - np.maximum(y - collar_y, 0) * 6 / (depth + 0.3)
    )
    blend(scene.image, np.maximum(neckline, body * (1 - shoulder)), scene.skin * dim, where)
    if traits.necktie:
        shirt = soft(y - 37 - 0.35 * np.abs(x)) * soft(13 - np.abs(x))
        blend(scene.image, shirt, tint(0.88, 0.88, 0.9) * dim, where)
        knot = soft(3.2 + 0.03 * (y - 40) - np.abs(x)) * soft(y - 39)
        blend(scene.image, knot, random_tint(rng, 0.25) * 0.7 * folds, where)


def _paint_head(scene: Scene) -> None:
    """Ears and face, shaded as a dome under the light, with the shadow of the hair."""
    traits, rng = scene.traits, scene.rng
    if not traits.long_hair:
        for side in (-1, 1):
            ear_x = scene.shift + side * (scene.face_width - 0.3 - side * 0.12 * scene.shift)
            spot, at = blob(ear_x, 3.5, 1.9, 4.2)
            blend(scene.image, clamp(spot * 2.5, 0, 1), scene.skin * 0.72, at)
    where = region(scene.shift, 1, scene.face_width + 3, 42)
    y, x = coordinates(where)
    half = scene.face_half[where[0]]
    nx = clamp((x - scene.shift) / np.maximum(half, 4), -1, 1)
    ny = (y - 3) * (1 / 42)
    nz = np.sqrt(np.maximum(1.02 - 0.95 * nx * nx - ny * ny, 0.03))
    lit = scene.light[0] * nx + scene.light[1] * ny + scene.light[2] * nz
    lit = scene.ambient + (1 - scene.ambient) * np.maximum(lit, 0)
    lit += scene.surface[1][where] * between(rng, 0.01, 0.03)
    # Hair keeps the light off the skin beside it.
    shadow = 1 - between(rng, 0.15, 0.4) * scene.hair_shadow[where]
    skin = scene.skin * (lit * shadow)
    # Skin in the shade is redder: light that has travelled through it.
    skin *= 1 + (1 - lit) * tint(0.06, -0.03, -0.06)
    blend(scene.image, silhouette(half, scene.shift, 1.5, where), skin, where)


def _hair_shapes(scene: Scene) -> tuple[Array, Array]:
    """Coverage of the face's opening in the hair and of the hair's outline; sets `scene.hair_shadow`."""
    rng, traits, (y, _) = scene.rng, scene.traits, coordinates()
    volume = between(rng, 1, 5) if not traits.long_hair else between(rng, 3, 11)
    volume += 3 * traits.wavy * rng.random()
    top = scene.crown + volume * between(rng, 0.4, 1.1)
    radius = scene.face_width + volume * 0.9
    dome = radius * np.sqrt(clamp(1 - (np.minimum(y + 6, 0) / (top - 6)) ** 2, 0, 1))
    if traits.long_hair:
        end = between(rng, 24, 75)
        flare = between(rng, -3, 9)
        fall = clamp((y + 4) / 40, 0, 2)
        outline = dome + flare * fall
        if traits.wavy:
            outline = outline + between(rng, 0.5, 2.2) * np.sin(y * between(rng, 0.2, 0.5) + 6 * rng.random())
        outline = outline * np.sqrt(clamp((end - y) / 9, 0, 1))
    else:
        burn = between(rng, -2, 9) + 6 * traits.sideburns
        outline = dome * clamp((burn - y) / 4, 0, 1)
    outline = np.where(outline <= 0, -9, outline).astype(np.float32)
    lopsided = between(rng, -2, 2) + 0.9 * scene.shift
    ragged = scene.strands[1] * 0.6 + scene.surface[1] * (0.5 + 0.6 * traits.wavy)
    outer = soft(inside(outline, lopsided) + ragged, between(rng, 1.2, 3.5))
    opening_half, part = _opening_profile(scene)
    depth = inside(opening_half, part + scene.shift) + ragged * 0.7
    scene.hair_shadow = outer * (1 - soft(depth - 3, 9)) if not traits.bald else np.zeros_like(outer)
    return soft(depth, between(rng, 1.2, 3)), outer


def _opening_profile(scene: Scene) -> tuple[Array, Array]:
    """Per row (128, 1): half width of the opening in which the face shows, and its shift by the parting."""
    rng, traits, (y, _) = scene.rng, scene.traits, coordinates()
    hairline = between(rng, 7, 12) if traits.bangs else between(rng, 17, 23) + 5 * traits.receding
    full = scene.face_width + (between(rng, -3.5, -0.5) if traits.long_hair else between(rng, -0.5, 1.5))
    square = 4 if traits.bangs else 2
    arch = clamp(-(y + 2) / (hairline - 2), 0, 1)
    half = full * np.sqrt(clamp(1 - arch**square, 0, 1))
    half = np.where(arch >= 1, -9, half + np.maximum(y - 8, 0) * between(rng, -0.25, 0.15))
    parting = between(rng, -8, 8) * (0.3 if traits.bangs else 1.0)
    return half.astype(np.float32), (parting * arch**2).astype(np.float32)


def _hair_tints(scene: Scene) -> Array:
    """The colour of hair all over the canvas, (3, 128, 112): strands with a band of gloss."""
    rng, traits, (y, x) = scene.rng, scene.traits, coordinates()
    radius, angle = polar()
    if traits.long_hair:
        # Strands run down beside the face, parallel to the outline.
        across = np.hypot(x, np.minimum(y - 4, 0)) * between(rng, 1.2, 2) * np.sign(x + 0.3)
        along = y + 40
    else:
        across = angle * between(rng, 26, 40) + x * between(rng, -0.4, 0.4)
        along = radius
    curl = np.sin(along * between(rng, 0.15, 0.4) + x * between(rng, -0.15, 0.15))
    across = across + curl * (3.5 * traits.wavy + 0.6)
    columns = across.astype(np.int32) % WIDTH
    # The mask wraps rows around: the height is a power of two.
    rows = (along.astype(np.int32) + int(64 * rng.random())) & (HEIGHT - 1)
    strands = np.take(scene.strands[0], rows * WIDTH + columns)
    gloss = np.exp(-0.5 * ((radius - between(rng, 24, 34)) / 5) ** 2)
    lit = 0.75 + 0.45 * clamp(scene.light[0] * x / 30 - scene.light[1] * (y + 10) / 60, -1, 1)
    lit += (0.25 * scene.gloss) * gloss * np.maximum(0.2, 1 + 0.6 * strands)
    contrast = between(rng, 0.12, 0.26)
    strands = strands * clamp((y + 34) / 30, 0.35 if traits.long_hair else 0.8, 1)
    lit *= np.maximum(1 + contrast * strands + 0.14 * scene.surface[0], 0.15)
    tints: Array = scene.hair * lit
    tints += 0.015
    return tints


def _paint_hat(scene: Scene) -> None:
    """A cap, a knitted hat or a hat with a brim, with its shadow on the forehead."""
    rng, (y, x) = scene.rng, coordinates()
    kind = rng.random()
    rim = between(rng, -17, -12)
    cloth = random_tint(rng, 0.22) * 0.9
    top = scene.crown + between(rng, 4, 10)
    half = scene.face_width + between(rng, 3, 6)
    height = clamp(-(y - rim) / (top + rim), 0, 1)
    crown = np.where((y < rim) & (y > -top), half * (1 - height ** between(rng, 2.5, 5)) ** 0.5, -9)
    knit = 1 + 0.12 * scene.surface[0] + 0.1 * scene.strands[1]
    if kind < 0.35:
        knit += 0.25 * np.sin(x * between(rng, 1.2, 2))
    lit = 0.75 + 0.35 * clamp(scene.light[0] * x / 25 - 0.5 * (y + 25) / 30, -1, 1)
    scene.image *= 1 - 0.35 * soft(8 - np.abs(y - (rim + 4)), 10) * soft(26 - np.abs(x), 6)
    blend(scene.image, silhouette(crown.astype(np.float32), scene.shift), cloth * (lit * knit))
    reach = half + (between(rng, 10, 22) if kind > 0.7 else 1.0)
    thick = 2.2 if kind > 0.35 else 4.0
    brim = soft(thick - np.abs(y - rim - (0.006 * (x - scene.shift) ** 2)), 1.5)
    brim = brim * soft(reach - np.abs(x - scene.shift), 2)
    blend(scene.image, brim, cloth * (lit * between(rng, 0.55, 0.9)))


def _photograph(scene: Scene) -> npt.NDArray[np.uint8]:
    """Exposure, white balance, tone curve, focus and crop: uint8 (109, 89, 3)."""
    rng, image = scene.rng, scene.image
    balance = 0.035 * rng.standard_normal((3, 1, 1), dtype=np.float32) + between(rng, -0.25, 0.25)
    contrast = between(rng, 1.05, 1.4)
    # Contrast pivots at 0.45; values go from [0, 1] to [0, 255] on the way.
    image *= np.exp(balance) * (255 * contrast)
    image += (0.012 * 255 * contrast) * scene.surface[1] + (0.45 * 255 * (1 - contrast) + 0.5)
    # In-camera sharpening, which makes good what resampling takes away.
    sharpen(image, 0.4)
    np.maximum(image, 0, out=image)
    np.minimum(image, 255, out=image)
    pixels = np.ascontiguousarray(image.astype(np.uint8).transpose(1, 2, 0))
    angle, scale = 0.05 * rng.standard_normal(), between(rng, 0.97, 1.06)
    angle = min(max(angle, -0.1), 0.1)
    cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
    middle_x, middle_y = between(rng, 43.5, 45), between(rng, 54.8, 56.2)
    matrix = (
        cos,
        -sin,
        CENTER_X - cos * middle_x + sin * middle_y,
        sin,
        cos,
        CENTER_Y - sin * middle_x - cos * middle_y,
    )
    picture = Image.fromarray(pixels).transform(
        (PICTURE_WIDTH, PICTURE_HEIGHT), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
    )
    if scene.traits.blurry:
        picture = picture.filter(ImageFilter.GaussianBlur(between(rng, 1.2, 2.0)))
    return np.asarray(picture)
