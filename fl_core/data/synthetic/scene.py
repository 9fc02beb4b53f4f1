"""What one synthetic portrait shows: the traits that become attributes, and the draws behind the rest."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from fl_core.data.synthetic.canvas import HEIGHT, WIDTH, Array, between, coordinates, textures, tint

HairTone = Literal["black", "brown", "blond", "gray", "red"]
Beard = Literal["none", "stubble", "goatee", "full"]

_HAIR: dict[HairTone, tuple[float, float, float]] = {
    "black": (0.10, 0.085, 0.085),
    "brown": (0.33, 0.235, 0.17),
    "blond": (0.82, 0.67, 0.45),
    "gray": (0.68, 0.67, 0.67),
    "red": (0.46, 0.23, 0.14),
}
# From pale to dark.
_SKIN = np.array(
    [(0.97, 0.84, 0.76), (0.93, 0.74, 0.62), (0.84, 0.62, 0.49), (0.62, 0.42, 0.31), (0.42, 0.27, 0.20)],
    dtype=np.float32,
)


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What a portrait shows; each field is painted, so each is true of the picture."""

    male: bool
    young: bool
    smiling: bool
    mouth_open: bool
    eyeglasses: bool
    hat: bool
    bald: bool
    bangs: bool
    receding: bool
    long_hair: bool
    wavy: bool
    sideburns: bool
    mustache: bool
    lipstick: bool
    pale: bool
    rosy: bool
    blurry: bool
    bushy_brows: bool
    earrings: bool
    necktie: bool
    hair_tone: HairTone
    beard: Beard


@dataclass(kw_only=True)
class Scene:
    """One portrait while it is painted: the canvas, its textures, the light and the head's measures.

    Tints are (3, 1, 1); lengths are in pixels of the picture; `light` points at the lamp.
    """

    traits: Traits
    rng: np.random.Generator
    image: Array
    surface: tuple[Array, Array]
    strands: tuple[Array, Array]
    light: tuple[float, float, float]
    ambient: float
    gloss: float
    skin: Array
    hair: Array
    face_width: float
    chin: float
    crown: float
    yaw: float
    shift: float
    face_half: Array = field(init=False)
    hair_shadow: Array = field(init=False)

    def __post_init__(self) -> None:
        self.face_half = self._face_profile()
        self.hair_shadow = np.zeros((HEIGHT, WIDTH), dtype=np.float32)

    @classmethod
    def draw(cls, traits: Traits, rng: np.random.Generator) -> Scene:
        """A scene for `traits` with light, colours and measures drawn from `rng`."""
        first, second, strand, other = textures(rng)
        side = between(rng, -0.75, 0.75)
        above = between(rng, -0.55, 0.1)
        front = max(0.25, 1 - side * side - above * above) ** 0.5
        yaw = min(max(0.4 * rng.standard_normal(), -1.0), 1.0)
        hair = tint(*_HAIR[traits.hair_tone]) * between(rng, 0.8, 1.2)
        return cls(
            traits=traits,
            rng=rng,
            image=np.empty((3, HEIGHT, WIDTH), dtype=np.float32),
            surface=(first, second),
            strands=(strand, other),
            light=(side, above, front),
            ambient=between(rng, 0.25, 0.6),
            gloss=between(rng, 0.2, 1.0),
            skin=_skin_tint(traits, rng),
            hair=np.clip(hair, 0, 1),
            face_width=between(rng, 19.0, 21.5) if traits.male else between(rng, 17.5, 20.0),
            chin=between(rng, 35.5, 39.5) if traits.male else between(rng, 33.0, 36.5),
            crown=between(rng, 32, 36),
            yaw=yaw,
            shift=-3.5 * yaw,
        )

    def _face_profile(self) -> Array:
        """Half width of the face per row, (128, 1): an ellipse above the eyes, the jaw below them."""
        y = coordinates()[0]
        jaw = between(self.rng, 2.6, 3.6) if self.traits.male else between(self.rng, 1.8, 2.3)
        skull = np.clip(1 - (np.maximum(-y, 0) / self.crown) ** 3.2, 0, 1)
        below = np.clip(1 - np.clip(y / self.chin, 0, 1) ** jaw, 0, 1)
        half = self.face_width * np.sqrt(skull) * below**0.55
        return np.where(half > 0, half, -9).astype(np.float32)


def _skin_tint(traits: Traits, rng: np.random.Generator) -> Array:
    """A skin colour (3, 1, 1): palest for pale skin, else along the palette, light ones more often."""
    place = 0.15 * rng.random() if traits.pale else 0.7 + 3.2 * rng.random() ** 3
    whole = min(int(place), len(_SKIN) - 2)
    part = place - whole
    skin = (1 - part) * _SKIN[whole] + part * _SKIN[whole + 1]
    warmth = 1 + 0.03 * rng.standard_normal(3, dtype=np.float32)
    mixed: Array = np.clip(skin * warmth, 0, 1).reshape(3, 1, 1)
    return mixed
