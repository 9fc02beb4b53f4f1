"""Synthetic portraits in CelebA's layout: the stand-in where CelebA itself is not at hand.

Sex, age and expression come at about CelebA's rates, and what an attribute says is painted. Spectrum,
contrast and total variation are near those of CelebA (`fl_core.data.synthetic.portrait` paints), so attacks and
defenses can be run end to end; a number that is to be quoted needs the real images.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from fl_core.base.errors import InputError, unknown_name
from fl_core.base.rng import derive_seed
from fl_core.base.shape import ImageShape
from fl_core.data.dataset import ImageDataset, PictureFiles
from fl_core.data.kinds.celeba import attribute_classes
from fl_core.data.kinds.celeba_folder import ATTRIBUTE_CSV, IMAGE_FOLDER, PARTITION_CSV
from fl_core.data.resize import Resize
from fl_core.data.synthetic.portrait import paint
from fl_core.data.synthetic.scene import Beard, HairTone, Traits

ATTRIBUTES: tuple[str, ...] = (
    "5_o_Clock_Shadow",
    "Arched_Eyebrows",
    "Attractive",
    "Bags_Under_Eyes",
    "Bald",
    "Bangs",
    "Big_Lips",
    "Big_Nose",
    "Black_Hair",
    "Blond_Hair",
    "Blurry",
    "Brown_Hair",
    "Bushy_Eyebrows",
    "Chubby",
    "Double_Chin",
    "Eyeglasses",
    "Goatee",
    "Gray_Hair",
    "Heavy_Makeup",
    "High_Cheekbones",
    "Male",
    "Mouth_Slightly_Open",
    "Mustache",
    "Narrow_Eyes",
    "No_Beard",
    "Oval_Face",
    "Pale_Skin",
    "Pointy_Nose",
    "Receding_Hairline",
    "Rosy_Cheeks",
    "Sideburns",
    "Smiling",
    "Straight_Hair",
    "Wavy_Hair",
    "Wearing_Earrings",
    "Wearing_Hat",
    "Wearing_Lipstick",
    "Wearing_Necklace",
    "Wearing_Necktie",
    "Young",
)
_JPEG_QUALITY = 92


def render_face(seed: int, index: int) -> tuple[npt.NDArray[np.uint8], dict[str, bool]]:
    """Portrait `index` of the endless series `seed`, and its 40 attributes in CelebA's order.

    Returns:
        The picture, RGB uint8 (109, 89, 3), and attribute name -> whether it holds. Attributes that are
        never painted are False. Both depend on (`seed`, `index`) alone, bit for bit on one
        platform.
    """
    rng = np.random.default_rng(derive_seed("synthetic face", seed, index))
    traits = _draw_traits(rng)
    return paint(traits, rng), _attributes(traits)


def write_faces(
    root: Path, *, num: int, seed: int = 0, progress: Callable[[int, int], None] | None = None
) -> None:
    """Write the first `num` portraits of series `seed` under `root` in CelebA's layout.

    The first 75 % by index are partition train, the next 12.5 % valid, the rest test. The CSV files come
    last, so a run that was cut short leaves a folder that does not open as a smaller data set.

    Args:
        root: data folder, made if missing. It must not hold a data set yet: CelebA is never overwritten.
        num: number of portraits, 1 to 999,999.
        seed: the series.
        progress: called with (portraits written, `num`) after each portrait.

    Raises:
        InputError: `num` is out of range, or `root` holds a data set or cannot be written.
    """
    if not 1 <= num <= 999_999:
        raise InputError(f"num is {num}; write between 1 and 999999 synthetic faces.")
    for name in (IMAGE_FOLDER, ATTRIBUTE_CSV, PARTITION_CSV):
        if (root / name).exists():
            raise InputError(f"{root / name} exists already; name a new folder, or delete this one first.")
    try:
        _write(root, num, seed, progress)
    except OSError as error:
        raise InputError(
            f"{root}: cannot write synthetic faces ({error}); name a folder that can be written and has room."
        ) from error


@dataclass(frozen=True, kw_only=True)
class UnwrittenFaces(PictureFiles):
    """The files that `write_faces` would write, painted in memory: the same bytes, and the same pictures."""

    seed: int

    def content(self, index: int) -> bytes:
        """See `PictureSource`."""
        return _stored_face(self.seed, index)

    def picture(self, index: int) -> Image.Image:
        """See `PictureSource`."""
        return Image.open(io.BytesIO(self.content(index)))


def unwritten_faces(
    root: Path, *, num: int, seed: int, attributes: Sequence[str], shape: ImageShape, resize: Resize = "crop"
) -> ImageDataset:
    """The data set that `write_faces` would write; each image is painted anew when it is asked for.

    Raises `InputError` for an attribute that there is not.
    """
    for attribute in attributes:
        if attribute not in ATTRIBUTES:
            raise unknown_name("attribute", attribute, ATTRIBUTES)
    labels = []
    for index in range(num):
        held = _attributes(_draw_traits(np.random.default_rng(derive_seed("synthetic face", seed, index))))
        labels.append(int("".join("1" if held[attribute] else "0" for attribute in attributes), base=2))
    import torch

    names = np.array([_name(index) for index in range(num)])
    return ImageDataset(
        root=root,
        source=UnwrittenFaces(folder=root / IMAGE_FOLDER, names=names, seed=seed),
        shape=shape,
        resize=resize,
        classes=attribute_classes(attributes),
        names=names,
        labels=torch.tensor(labels, dtype=torch.int64),
        partition=np.array([_partition(index, num) for index in range(num)], dtype=np.int8),
        split_by=str(root / PARTITION_CSV),
        fingerprint="",
    )


@lru_cache(maxsize=4096)
def _stored_face(seed: int, index: int) -> bytes:
    """The bytes that `write_faces` gives a face."""
    stored = io.BytesIO()
    Image.fromarray(render_face(seed, index)[0]).save(stored, format="JPEG", quality=_JPEG_QUALITY)
    return stored.getvalue()


def _name(index: int) -> str:
    return f"{index + 1:06d}.jpg"


def _write(root: Path, num: int, seed: int, progress: Callable[[int, int], None] | None) -> None:
    """The work of `write_faces`, with `OSError` let through."""
    folder = root / IMAGE_FOLDER
    folder.mkdir(parents=True)
    attribute_lines = [",".join(("image_id", *ATTRIBUTES))]
    partition_lines = ["image_id,partition"]
    for index in range(num):
        pixels, attributes = render_face(seed, index)
        name = _name(index)
        Image.fromarray(pixels).save(folder / name, quality=_JPEG_QUALITY)
        attribute_lines.append(",".join((name, *("1" if held else "-1" for held in attributes.values()))))
        partition_lines.append(f"{name},{_partition(index, num)}")
        if progress is not None:
            progress(index + 1, num)
    for path, lines in ((root / ATTRIBUTE_CSV, attribute_lines), (root / PARTITION_CSV, partition_lines)):
        path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def _partition(index: int, num: int) -> int:
    """0 / 1 / 2 (train / valid / test) of portrait `index` of `num`."""
    return 0 if 4 * index < 3 * num else 1 if 8 * index < 7 * num else 2


def _draw_traits(rng: np.random.Generator) -> Traits:
    """Traits with about CelebA's frequencies; some depend on sex and age, as they do there."""

    def chance(probability: float) -> bool:
        return bool(rng.random() < probability)

    male = chance(0.42)
    young = chance(0.68 if male else 0.87)
    smiling = chance(0.40 if male else 0.54)
    hat = chance(0.08 if male else 0.02)
    bald = male and chance(0.02 if young else 0.16) and not hat
    beard, mustache = _draw_beard(rng, male)
    long_hair = chance(0.05 if male else 0.88) and not bald
    return Traits(
        male=male,
        young=young,
        smiling=smiling,
        mouth_open=chance(0.76 if smiling else 0.22),
        eyeglasses=chance((0.07 if young else 0.2) * (1.3 if male else 0.5)),
        hat=hat,
        bald=bald,
        bangs=chance(0.07 if male else 0.22) and not bald and not hat,
        receding=male and not bald and not hat and chance(0.06 if young else 0.3),
        long_hair=long_hair,
        wavy=chance(0.15 if male else 0.45) and not bald,
        sideburns=male and not long_hair and not bald and chance(0.14),
        mustache=mustache,
        lipstick=not male and chance(0.8),
        pale=chance(0.045),
        rosy=not male and chance(0.12),
        blurry=chance(0.05),
        bushy_brows=chance(0.26 if male else 0.06),
        earrings=not male and chance(0.3),
        necktie=male and chance(0.17),
        hair_tone=_draw_hair_tone(rng, male, young),
        beard=beard,
    )


def _draw_beard(rng: np.random.Generator, male: bool) -> tuple[Beard, bool]:
    """Kind of beard, and whether there is a mustache to see."""
    if not male:
        return "none", False
    kinds: tuple[Beard, ...] = ("none", "stubble", "goatee", "full")
    beard = kinds[int(np.searchsorted((0.58, 0.76, 0.86), rng.random()))]
    return beard, beard != "stubble" and bool(rng.random() < (0.5 if beard in ("goatee", "full") else 0.05))


def _draw_hair_tone(rng: np.random.Generator, male: bool, young: bool) -> HairTone:
    """Hair tone; gray only when not young."""
    draw = rng.random()
    if not young:
        if draw < 0.3:
            return "gray"
        draw = rng.random()
    tones: tuple[HairTone, ...] = ("black", "brown", "blond", "red")
    limits = (0.46, 0.86, 0.94) if male else (0.30, 0.66, 0.94)
    return tones[int(np.searchsorted(limits, draw))]


def _attributes(traits: Traits) -> dict[str, bool]:
    """CelebA's 40 attributes of a portrait; those that are never painted are False."""
    bearded = traits.beard != "none" or traits.mustache
    shown = not traits.bald
    held = {
        "5_o_Clock_Shadow": traits.beard == "stubble",
        "Bald": traits.bald,
        "Bangs": traits.bangs,
        "Black_Hair": shown and traits.hair_tone == "black",
        "Blond_Hair": shown and traits.hair_tone == "blond",
        "Blurry": traits.blurry,
        "Brown_Hair": shown and traits.hair_tone == "brown",
        "Bushy_Eyebrows": traits.bushy_brows,
        "Eyeglasses": traits.eyeglasses,
        "Goatee": traits.beard == "goatee",
        "Gray_Hair": shown and traits.hair_tone == "gray",
        "Heavy_Makeup": traits.lipstick,
        "Male": traits.male,
        "Mouth_Slightly_Open": traits.mouth_open,
        "Mustache": traits.mustache,
        "No_Beard": not bearded,
        "Pale_Skin": traits.pale,
        "Receding_Hairline": traits.receding,
        "Rosy_Cheeks": traits.rosy,
        "Sideburns": traits.sideburns,
        "Smiling": traits.smiling,
        "Straight_Hair": shown and not traits.wavy,
        "Wavy_Hair": traits.wavy,
        "Wearing_Earrings": traits.earrings,
        "Wearing_Hat": traits.hat,
        "Wearing_Lipstick": traits.lipstick,
        "Wearing_Necktie": traits.necktie,
        "Young": traits.young,
    }
    return {name: held.get(name, False) for name in ATTRIBUTES}
