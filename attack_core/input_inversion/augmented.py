"""Inversion of a known augmentation policy: every draw is tried, the most natural image is kept.

A policy's draws are few. The mean public image shows how faces stand, where they are, and how bright: surest in the
middle, where they differ least. An image that was shifted round the edge has a seam, which the right draw moves back to
the edge.

A published policy is not inverted: it pushes a part of the image out of the frame, and the mean public image stands
there in the answer. But the black that it leaves tells the draw: what a draw gives back, put through the policy again
with that draw, is the image that was found only where the draw is right.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fl_core.base.decibels import TINY
from fl_core.data.augmentation.transforms import (
    Transform,
    draws_of,
    inverse_transformed,
    is_lossy,
    transformed,
)


@dataclass(frozen=True, kw_only=True)
class LikenessWeights:
    """What makes an image look like the mean public image. Chosen on synthetic faces, not measured against others."""

    middle: float = 0.5
    """The standard deviation of the window around the middle, in halves of the image's side."""
    seam: float = 5.0
    """What the mean step between neighbours counts beside the distance from the mean image."""
    remade: float = 100.0
    """What the squared distance between the image and the one made of the answer counts beside both."""


LIKENESS_WEIGHTS = LikenessWeights()
"""The weights in force."""


def invert_augmentation(
    images: Tensor, policy: Sequence[Transform], mean: Tensor, weights: LikenessWeights = LIKENESS_WEIGHTS
) -> Tensor:
    """Images (B, 3, S, S), each taken back by the draw of `policy` that makes it look most like `mean` (3, S, S)."""
    size = images.shape[-1]
    least = torch.full((len(images),), torch.inf, device=images.device)
    answer = images
    for drawn in itertools.product(*(draws_of(transform, size) for transform in policy)):
        tried = inverse_transformed(images, policy, drawn, missing=mean)
        strange = strangeness(tried, mean, weights)
        if is_lossy(policy):
            remade = transformed(tried, policy, drawn)
            strange = strange + weights.remade * (remade - images).square().mean((1, 2, 3))
        better = strange < least
        least = torch.where(better, strange, least)
        answer = torch.where(better[:, None, None, None], tried, answer)
    return answer


def strangeness(images: Tensor, mean: Tensor, weights: LikenessWeights = LIKENESS_WEIGHTS) -> Tensor:
    """How little images (B, 3, S, S) look like `mean` (3, S, S), (B,): distance minus correlation, plus steps."""
    window = _window(images, weights.middle)
    centred = images - (images * window).mean((1, 2, 3), keepdim=True)
    wanted = mean - (mean * window).mean()
    sizes = (centred.square() * window).mean((1, 2, 3)) * (wanted.square() * window).mean()
    alike = (centred * wanted * window).mean((1, 2, 3)) / sizes.sqrt().clamp_min(TINY)
    distance = ((images - mean).square() * window).mean((1, 2, 3))
    steps = images.diff(dim=-1).abs().mean((1, 2, 3)) + images.diff(dim=-2).abs().mean((1, 2, 3))
    return distance - alike + weights.seam * steps


def _window(images: Tensor, middle: float) -> Tensor:
    """Weights (S, S) of mean 1 that fall from the middle outwards."""
    side = torch.linspace(-1.0, 1.0, images.shape[-1]).to(images)
    window = torch.exp(-(side[:, None].square() + side[None, :].square()) / (2.0 * middle**2))
    return window / window.mean()
