"""Changes of an image: what a policy of augmentations is made of.

Each has a finite set of draws, all equally likely, so that an attacker can try them all. Five of them can be taken
back, but for pixels that brightening left at the end of the range. The published policies
(`fl_core.data.augmentation.policies`), which count as one change each, lose a part of the image for good.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from fl_core.data.augmentation.policies import PUBLISHED, Published, applied, draws_of_policy, inverted

if TYPE_CHECKING:
    from torch import Tensor

Transform = Literal["mirror", "turn", "shift", "negate", "brighten", Published]
Draw = tuple[float, ...]

_LEVELS = (-0.4, -0.2, 0.0, 0.2, 0.4)
_REACH = 8
"""Shifts go as far as one in so many pixels of the side, in each direction."""


def draws_of(transform: Transform, size: int) -> list[Draw]:
    """All draws of a transform for images of `size` pixels a side.

    - `mirror`: left and right or not; `turn`: by 0 to 3 quarters; `negate`: dark and bright or not.
    - `shift`: by up to size / 8 pixels down and right; what leaves comes back on the other side.
    - `brighten`: by -0.4 to 0.4 of the range [-1, 1], where it ends there.
    - published policies: see `fl_core.data.augmentation.policies`.
    """
    match transform:
        case "mirror" | "negate":
            return [(0,), (1,)]
        case "turn":
            return [(0,), (1,), (2,), (3,)]
        case "shift":
            steps = range(-(size // _REACH), size // _REACH + 1)
            return list(itertools.product(steps, steps))
        case "brighten":
            return [(level,) for level in _LEVELS]
        case _:
            return draws_of_policy(transform)


def transformed(image: Tensor, policy: Sequence[Transform], drawn: Sequence[Draw]) -> Tensor:
    """Image (..., S, S) after each transform of `policy` with its draw, in [-1, 1]."""
    for transform, draw in zip(policy, drawn, strict=True):
        image = _apply(image, transform, draw).clamp(-1.0, 1.0)
    return image


def is_lossy(policy: Sequence[Transform]) -> bool:
    """Whether some of an image is gone for good after `policy`, and not only at the ends of the range."""
    return any(transform in PUBLISHED for transform in policy)


def inverse_transformed(
    image: Tensor, policy: Sequence[Transform], drawn: Sequence[Draw], *, missing: Tensor | None = None
) -> Tensor:
    """What image (..., S, S) was before it was `transformed`, as far as it can be told.

    Pixels that left the range stay at its end. For those that left the frame there is `missing`, grey by default.
    """
    import torch

    for transform, draw in reversed(list(zip(policy, drawn, strict=True))):
        image = _invert(image, transform, draw)
    lost = torch.zeros_like(image) if missing is None else missing
    return torch.where(image.isnan(), lost, image).clamp(-1.0, 1.0)


def _invert(image: Tensor, transform: Transform, draw: Draw) -> Tensor:
    match transform:
        case "mirror" | "negate":
            return _apply(image, transform, draw)
        case "turn" | "shift" | "brighten":
            return _apply(image, transform, tuple(-part for part in draw))
        case _:
            return inverted(image, transform, draw)


def _apply(image: Tensor, transform: Transform, draw: Draw) -> Tensor:
    import torch

    match transform:
        case "mirror":
            return image.flip(-1) if draw[0] else image
        case "turn":
            return torch.rot90(image, int(draw[0]) % 4, (-2, -1))
        case "shift":
            return image.roll((int(draw[0]), int(draw[1])), (-2, -1))
        case "negate":
            return -image if draw[0] else image
        case "brighten":
            return image + draw[0]
        case _:
            return applied(image, transform, draw)
