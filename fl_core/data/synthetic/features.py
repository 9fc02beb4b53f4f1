"""Eyes, brows, nose, mouth, beard, wrinkles, glasses and earrings of a synthetic portrait."""

from __future__ import annotations

import numpy as np

from fl_core.data.synthetic.canvas import (
    Array,
    Region,
    between,
    blend,
    blob,
    clamp,
    coordinates,
    random_tint,
    region,
    shade,
    silhouette,
    soft,
    tint,
)
from fl_core.data.synthetic.scene import Scene

_EYE_X = 9.75


def paint_features(scene: Scene) -> None:
    """Paint all that lies on the face under the hair onto `scene.image`."""
    _paint_relief(scene)
    if scene.traits.beard != "none" or scene.traits.mustache:
        _paint_beard(scene)
    _paint_eyes(scene)
    _paint_brows(scene)
    _paint_mouth(scene)
    if scene.traits.eyeglasses:
        _paint_glasses(scene)


def paint_earrings(scene: Scene) -> None:
    """Earrings, over the hair that would else hide them."""
    metal = random_tint(scene.rng, 0.1) * 0.4 + 0.6
    for side in (-1, 1):
        spot, where = blob(scene.shift + side * (scene.face_width + 0.3), 12, 0.9, 1.8)
        blend(scene.image, np.minimum(spot * 1.6, 1), metal, where)


def _paint_relief(scene: Scene) -> None:
    """Nose, eye sockets, cheeks, chin and wrinkles as light and shade."""
    rng, image, traits, side = scene.rng, scene.image, scene.traits, scene.light[0]
    turn = 2.5 * scene.yaw
    for eye in (-1, 1):
        shade(image, blob(eye * (_EYE_X - 0.5), -2, 5.5, 3.6), -between(rng, 0.12, 0.28))
        cheek = 0.14 if traits.smiling else 0.06
        shade(image, blob(eye * 11.5 + 0.4 * turn, 9.5, 4.5, 3.5), cheek + 0.06 * side * eye)
        # The flank of the nose away from the lamp lies in shade.
        shade(image, blob(eye * 3.4 + 0.6 * turn, 5, 1.9, 6), 0.16 * side * eye - 0.03)
        shade(image, blob(eye * 2.7 + turn, 12.2, 1.2, 0.9), -between(rng, 0.2, 0.45))
        shade(image, blob(eye * 4.6 + turn, 10.5, 1.2, 1.8), -0.08)
        fold = 0.13 * traits.smiling + 0.13 * (not traits.young)
        if fold:
            _shade_line(scene, (eye * 6 + turn * 0.7, 12), (eye * 11.5 + turn * 0.4, 20), 1.0, -fold)
        if not traits.young:
            _shade_line(scene, (eye * 6, 5.5), (eye * 13, 5), 1.0, -between(rng, 0.1, 0.2))
        if traits.rosy:
            spot, where = blob(eye * 12 + 0.4 * turn, 10, 4, 3.5)
            blend(image, spot * 0.45, scene.skin * tint(0.95, 0.6, 0.6), where)
    shade(image, blob(turn, 6, 1.3, 6), 0.14)
    shade(image, blob(turn * 1.1, 9.5, 2.2, 1.8), 0.14)
    shade(image, blob(turn, 13.6, 3.6, 1.2), -0.2)
    shade(image, blob(0.5 * turn, 26.5, 5, 1.5), -0.16)
    shade(image, blob(0.5 * turn, 31, 5, 3), 0.07)
    shade(image, blob(scene.shift, -13, 9, 6), 0.08)
    if not traits.young:
        for line in range(3):
            y = -12.5 - 3.2 * line + between(rng, -0.4, 0.4)
            _shade_line(scene, (-9, y), (9, y + between(rng, -1, 1)), 0.8, -between(rng, 0.08, 0.2))


def _shade_line(
    scene: Scene, start: tuple[float, float], end: tuple[float, float], width: float, strength: float
) -> None:
    """Darken or lighten along the line from `start` to `end`, faded at its ends."""
    (x0, y0), (x1, y1) = start, end
    length = float(np.hypot(x1 - x0, y1 - y0))
    where = region((x0 + x1) / 2, (y0 + y1) / 2, abs(x1 - x0) / 2 + 3, abs(y1 - y0) / 2 + 3)
    rows, columns = coordinates(where)
    ux, uy = (x1 - x0) / length, (y1 - y0) / length
    along = (columns - x0) * ux + (rows - y0) * uy
    across = (columns - x0) * uy - (rows - y0) * ux
    fade = clamp(np.minimum(along, length - along) / 2 + 0.7, 0, 1)
    mask = np.exp(-0.5 * (across / width) ** 2) * fade
    shade(scene.image, (mask, where), strength)


def _paint_eyes(scene: Scene) -> None:
    """Both eyes: lids, white, iris and glint; make-up on the lids of those who wear lipstick."""
    rng, traits = scene.rng, scene.traits
    half_width = between(rng, 4.7, 5.6)
    upper = between(rng, 1.9, 2.8) - 0.5 * traits.smiling
    lower = between(rng, 1.0, 1.6) - 0.3 * traits.smiling
    iris_tint = tint(*((0.2, 0.13, 0.09) if rng.random() < 0.75 else (0.25, 0.33, 0.38)))
    gaze = between(rng, -1.2, 1.2)
    lash = (1.6 if traits.lipstick else 1.1) * between(rng, 0.8, 1.2)
    for side in (-1, 1):
        squeeze = 1 - 0.12 * side * scene.yaw
        center_x = side * _EYE_X
        where = region(center_x, 0, 7.5, 5.5)
        y, x = coordinates(where)
        across = (x - center_x) / (half_width * squeeze)
        arch = 1 - across * across
        top, bottom = -upper * arch, lower * arch
        open_ = soft(y - top) * soft(bottom - y)
        if traits.lipstick:
            lid = np.exp(-0.5 * ((y - top + 1.5) / 1.6) ** 2) * clamp(arch + 0.3, 0, 1)
            blend(scene.image, (0.45 * lid), scene.skin * tint(0.5, 0.4, 0.42), where)
        white = scene.skin * 0.4 + 0.33
        blend(scene.image, open_, white, where)
        disc = np.hypot(x - center_x - gaze, y + 0.4)
        blend(scene.image, open_ * soft(2.6 - disc), iris_tint, where)
        blend(scene.image, open_ * soft(1.3 - disc), tint(0.03, 0.03, 0.03), where)
        line = clamp(1 - np.abs(y - top) / lash, 0, 1) * clamp(arch * 3 + 0.6, 0, 1)
        blend(scene.image, line * 0.85, tint(0.08, 0.06, 0.05), where)
        glint, spot_where = blob(center_x + gaze + 1.2 * scene.light[0], -1.0, 0.6, 0.6)
        blend(scene.image, 0.8 * glint, tint(0.95, 0.95, 0.95), spot_where)


def _paint_brows(scene: Scene) -> None:
    """Brows: thick and low in men, thin and arched in women."""
    rng, traits = scene.rng, scene.traits
    thick = between(rng, 1.2, 1.8) if traits.male else between(rng, 0.7, 1.1)
    thick += 0.9 * traits.bushy_brows
    base = between(rng, -5.6, -4.4) if traits.male else between(rng, -6.6, -5.2)
    arch = between(rng, 0.3, 1.2) if traits.male else between(rng, 0.9, 2.0)
    pigment = np.minimum(scene.hair * 0.5, scene.skin * 0.55)
    strength = between(rng, 0.5, 0.85)
    for side in (-1, 1):
        where = region(side * _EYE_X, base - 1, 9, 6)
        y, x = coordinates(where)
        along = side * x - _EYE_X
        middle = base - arch * (1 - ((along - 1) / 7) ** 2) + 0.06 * along
        taper = clamp((7.2 - np.abs(along)) / 3, 0, 1) * clamp(1.1 - 0.06 * along, 0, 1)
        mask = clamp((thick * taper - np.abs(y - middle)) / 1.3 + 0.5, 0, 1) * taper * strength
        blend(scene.image, mask, pigment, where)


def _lips(scene: Scene) -> tuple[Array, Array, Array, Region, float]:
    """The mouth's curves and where they lie.

    Returns:
        Heights y (4, 1, w) of the upper lip's edge, the teeth's top, the lower lip's top and its edge; the
        position across the mouth (1, w), +-1 at its corners; the arch (1, w), 1 in the middle and 0 at the
        corners; the region; and the gap between the lips in pixels.
    """
    rng, traits = scene.rng, scene.traits
    half = between(rng, 9.3, 11) if traits.smiling else between(rng, 7, 8.6)
    half -= 0.6 * (not traits.male)
    center = 1.6 * scene.yaw
    where = region(center, 21.5, 13, 9)
    _, x = coordinates(where)
    across = clamp((x - center) / half, -1.2, 1.2)
    arch = clamp(1 - across * across, 0, 1)
    corner = between(rng, 1.8, 3.2) if traits.smiling else between(rng, -0.8, 0.5)
    middle = 20.6 - corner * across * across + 0.5 * corner
    gap = between(rng, 2.4, 4.4) if traits.mouth_open else 0.0
    fullness = between(rng, 1.0, 1.7) if traits.male else between(rng, 1.5, 2.6)
    cupid = 0.35 * np.cos(across * 6) * (np.abs(across) < 0.5)
    upper = middle - (fullness + cupid) * arch**0.7
    gap_low = middle + gap * arch
    lower = gap_low + 1.35 * fullness * arch**0.7
    curves = np.stack([upper, middle, gap_low, lower])
    return curves, across, arch, where, gap


def _paint_mouth(scene: Scene) -> None:
    """Lips, and teeth or the dark between them when the mouth is open."""
    rng, traits = scene.rng, scene.traits
    (upper, middle, gap_low, lower), across, arch, where, gap = _lips(scene)
    y, _ = coordinates(where)
    inside = soft(1.05 - np.abs(across), 0.2)
    lips = soft(y - upper) * soft(lower - y) * inside
    if traits.lipstick:
        paint = tint(between(rng, 0.5, 0.85), between(rng, 0.08, 0.3), between(rng, 0.14, 0.36))
        cover = between(rng, 0.65, 0.9)
    else:
        paint, cover = scene.skin * tint(0.82, 0.6, 0.6), between(rng, 0.45, 0.75)
    lit = 1 - 0.18 * soft(middle - y) + 0.12 * soft(0.8 - np.abs(y - (gap_low + 1.2)))
    blend(scene.image, lips * cover, paint * lit, where)
    if gap:
        hollow = soft(y - middle) * soft(gap_low - y) * inside
        teeth = 0.72 + 0.2 * rng.random()
        showing = gap * (0.95 if traits.smiling else 0.45) * arch + middle
        blend(scene.image, hollow, tint(0.16, 0.07, 0.07), where)
        blend(scene.image, hollow * soft(showing - y), tint(teeth, teeth * 0.97, teeth * 0.92), where)
    else:
        seam = clamp(1 - np.abs(y - middle) / 0.9, 0, 1) * inside
        blend(scene.image, seam * 0.7, scene.skin * tint(0.35, 0.22, 0.22), where)


def _paint_beard(scene: Scene) -> None:
    """Stubble, goatee, mustache or full beard, textured like short hair."""
    rng, traits, kind = scene.rng, scene.traits, scene.traits.beard
    where = region(0, 26, 26, 17)
    y, x = coordinates(where)
    off = x - scene.shift * 0.6
    half = scene.face_half[where[0]] + (1.0 if kind == "full" else 0.0)
    face = silhouette(half, scene.shift, where=where)
    grain = 1 + 0.25 * scene.strands[1][where] + 0.1 * scene.surface[0][where]
    cover = np.zeros_like(face)
    if kind in ("stubble", "full"):
        line = np.where(np.abs(off) > 9, 19 - 0.045 * off * off, 20)
        cheeks = soft(y - np.maximum(line, 2), 5)
        cover = face * cheeks
        cover = np.maximum(cover, face * soft(y - 15.0, 2) * soft(10 - np.abs(off), 2))
        cover = cover * (between(rng, 0.25, 0.5) if kind == "stubble" else between(rng, 0.75, 0.95))
    if kind == "goatee":
        cover = soft(7.5 - np.abs(off), 3) * soft(y - 24.5, 2) * face * between(rng, 0.7, 0.9)
    if traits.mustache or kind == "goatee":
        droop = 0.02 * off * off
        lip = soft(2.2 - np.abs(y - 17 - droop), 1.5) * soft(10.5 - np.abs(off), 2.5)
        cover = np.maximum(cover, lip * (between(rng, 0.7, 0.95) if traits.mustache else 0.6))
    pigment = np.minimum(scene.hair * 0.8, scene.skin * 0.6) * grain
    blend(scene.image, cover, pigment, where)


def _paint_glasses(scene: Scene) -> None:
    """Frames, bridge and temples around clear or dark lenses."""
    rng = scene.rng
    dark = rng.random() < 0.35
    half_w, half_h = between(rng, 6.6, 8.2), between(rng, 4.2, 6.2)
    rim = between(rng, 0.9, 1.6)
    frame = tint(0.07, 0.06, 0.06) if rng.random() < 0.8 else random_tint(rng, 0.2) * 0.5
    power = 2 if rng.random() < 0.5 else 4
    where = region(0, 0.5, 24, 9)
    y, x = coordinates(where)
    out = np.abs(x) - 9.6
    reach = ((np.abs(out) / half_w) ** power + (np.abs(y - 0.8) / half_h) ** power) ** (1 / power)
    distance = (1 - reach) * half_h
    if dark:
        glare = 1 + 0.8 * clamp((x * scene.light[0] - y) / 12, 0, 1)
        blend(scene.image, soft(distance) * between(rng, 0.8, 0.95), frame * glare + 0.03, where)
    else:
        glare = soft(distance) * clamp((scene.light[0] * out - y) / 9, 0, 1)
        blend(scene.image, glare * 0.3, tint(0.95, 0.97, 1.0), where)
    edge = soft(rim - np.abs(distance))
    bar = soft(rim * 0.7 - np.abs(y + 1)) * ((np.abs(x) < 3.2) | (out > half_w - 1))
    bar = bar * soft(scene.face_width + 1 - np.abs(x - scene.shift))
    blend(scene.image, np.maximum(edge, bar), frame, where)
