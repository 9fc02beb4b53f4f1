"""What an attacker sees of an answer that may tell how good it is: how it was found, its loss, its images."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from attack_core.base.types import Reconstruction

_LEAST = 1e-8
"""Smaller losses are rounding."""
_SMALL = 1e-4
"""Smaller differences of pixels from -1 to 1 are none: a step of 8 bits is 8e-3."""
_MOST = 1e6
"""Larger losses, and those that are not finite, are as bad."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One image of an answer, without the truth.

    `outcome` and `loss` are the whole answer's, the same for all its images. `grain` is the standard deviation of white
    noise in the image, for pixels from -1 to 1, as its finest diagonal details tell; `rough` is its mean absolute
    difference between neighbours; `apart` is its root mean square distance from the mean public image.
    """

    outcome: str
    loss: float
    grain: float
    rough: float
    apart: float

    @property
    def features(self) -> tuple[float, ...]:
        """What PSNR is predicted from besides the outcome: the logarithms, as decibels are one."""
        loss = min(max(self.loss, _LEAST), _MOST) if math.isfinite(self.loss) else _MOST
        grain, rough, apart = (max(value, _SMALL) for value in (self.grain, self.rough, self.apart))
        return tuple(math.log10(value) for value in (loss, grain, rough, apart))


def seen_of(answer: Reconstruction, mean: Tensor) -> list[Seen]:
    """What is seen of each image of an answer; `mean` is the mean public image (1, C, H, W) in [-1, 1]."""
    return [
        Seen(
            outcome=answer.outcome,
            loss=answer.loss,
            grain=grain(image),
            rough=roughness(image),
            apart=float((image - mean[0].cpu()).square().mean().sqrt()),
        )
        for image in answer.images.cpu()
    ]


def grain(image: Tensor) -> float:
    """The standard deviation of white noise on an image (C, H, W), from its finest diagonal Haar coefficients.

    Donoho and Johnstone (1994, Biometrika 81): their median absolute value over 0.6745. 0 for an image without any.
    """
    height, width = (side - side % 2 for side in image.shape[-2:])
    even = image[..., :height, :width]
    diagonal = even[..., ::2, ::2] - even[..., 1::2, ::2] - even[..., ::2, 1::2] + even[..., 1::2, 1::2]
    return float((diagonal / 2).abs().median()) / 0.6745 if diagonal.numel() else 0.0


def roughness(image: Tensor) -> float:
    """The mean absolute difference between neighbours of an image (C, H, W), along rows and columns; 0 without any."""
    steps = [image.diff(dim=axis).abs() for axis in (-1, -2) if image.shape[axis] > 1]
    return sum(float(each.mean()) for each in steps) / len(steps) if steps else 0.0
