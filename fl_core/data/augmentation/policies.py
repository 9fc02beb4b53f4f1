"""Published policies of augmentations that lose information: Gao et al., CVPR 2021 (arXiv:2011.12505).

The paper searches among 50 operations. Their magnitudes go in nine steps to 150/331 of the side for shifts and to 0.5
for contrast, each up or down at random. Its policies for CIFAR-100 are named after the operations' numbers: 3-1-7
shifts sideways (step 9), changes contrast (6) and shifts along the height (2); 43-18-18 shifts along the height (3) and
changes contrast twice (7). Of the two together each image gets one. What leaves the frame is lost, and black takes its
place; what leaves the range is cut.
"""

from __future__ import annotations

import itertools
import math
from types import ModuleType
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from torch import Tensor

Published = Literal["3-1-7", "43-18-18", "3-1-7+43-18-18"]
PUBLISHED: tuple[Published, ...] = get_args(Published)

_FARTHEST, _STRONGEST = 150 / 331 / 9, 0.5 / 9
"""One step of a shift, as a share of the side, and of contrast."""
_BLACK = -1.0

Operation = tuple[Literal["across", "along", "contrast"], float]

_OPERATIONS: dict[str, tuple[Operation, ...]] = {
    "3-1-7": (("across", 9 * _FARTHEST), ("contrast", 6 * _STRONGEST), ("along", 2 * _FARTHEST)),
    "43-18-18": (("along", 3 * _FARTHEST), ("contrast", 7 * _STRONGEST), ("contrast", 7 * _STRONGEST)),
}


def draws_of_policy(name: Published) -> list[tuple[float, ...]]:
    """All draws, equally likely: which of the policies it is, then up (1) or down (-1) for each operation."""
    parts = range(len(name.split("+")))
    return [(part, *signs) for part in parts for signs in itertools.product((1, -1), repeat=3)]


def applied(image: Tensor, name: Published, draw: tuple[float, ...]) -> Tensor:
    """Image (..., 3, S, S) in [-1, 1] after the policy with this draw."""
    for (kind, magnitude), sign in zip(*_drawn(name, draw), strict=True):
        if kind == "contrast":
            factor = 1.0 + sign * magnitude
            image = _functional().adjust_contrast((image + 1.0) / 2.0, factor) * 2.0 - 1.0
        else:
            image = _shifted(image, kind, sign * magnitude, _BLACK)
    return image


def inverted(image: Tensor, name: Published, draw: tuple[float, ...]) -> Tensor:
    """What can be had of an `applied` image's original: NaN where it left the frame, wrong where it left the range.

    Contrast is taken back around the mean grey of what is in the frame, which it leaves where it is.
    """
    operations, signs = _drawn(name, draw)
    for (kind, magnitude), sign in zip(reversed(operations), reversed(signs), strict=True):
        if kind == "contrast":
            grey = _functional().rgb_to_grayscale(image).nanmean((-3, -2, -1), keepdim=True)
            image = grey + (image - grey) / (1.0 + sign * magnitude)
        else:
            image = _shifted(image, kind, -sign * magnitude, math.nan)
    return image


def _functional() -> ModuleType:
    from torchvision.transforms.v2 import functional  # seconds of imports, which most runs do not need

    return functional  # type: ignore[no-any-return]  # torchvision is untyped


def _drawn(name: Published, draw: tuple[float, ...]) -> tuple[tuple[Operation, ...], tuple[float, ...]]:
    part, *signs = draw
    return _OPERATIONS[name.split("+")[int(part)]], tuple(signs)


def _shifted(image: Tensor, kind: str, share: float, fill: float) -> Tensor:
    """The image moved right (`across`) or down by a share of its side, `fill` where it was."""
    side = image.shape[-1]
    dim, pixels = -1 if kind == "across" else -2, round(share * side)
    moved = image.roll(pixels, dim)
    start = 0 if pixels >= 0 else side + pixels
    moved.narrow(dim, start, abs(pixels)).fill_(fill)
    return moved
