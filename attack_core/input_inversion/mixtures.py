"""From mixtures of images back to the images: which share and which order a batch was mixed with.

Mixing each image with the next one of a circle is a linear map that can be inverted once the one share and the circle
are known. Neither is told, but wrong guesses leave ghosts of other images: more edges (their sparsity is L1 over L2,
Krishnan et al., CVPR 2011), at the same places in two images, and pixels out of range. Images as they came are one of
the guesses.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from fl_core.base.decibels import TINY
from fl_core.data.augmentation.mixing import mixing_matrix


@dataclass(frozen=True, kw_only=True)
class UnmixingLimits:
    """What is tried to take images out of mixtures, and what makes a result look natural.

    Chosen on synthetic faces; no field was measured against other values.
    """

    shares: int = 49
    """How many shares are tried, evenly from `least_share` to `most_share`."""
    least_share: float = 0.51
    """The least share that is tried: below one half the two images' roles are swapped."""
    most_share: float = 0.99
    """The largest share that is tried: with one, nothing was mixed."""
    most_images: int = 6
    """Larger batches stay mixed: six images have 120 circles, seven have 720."""
    violation: float = 10.0
    """What the mean excess of pixels over the range counts beside the sparsity of edges."""
    shared: float = 0.2
    """What the mean correlation of two images' edges counts beside the sparsity of edges."""
    around: int = 5
    """Hidden signs: pixels on a side of the window that a variance is taken over."""
    least_variance: float = 0.01
    """Hidden signs: the least variance of a pixel, in squared normalised pixels."""


UNMIXING_LIMITS = UnmixingLimits()
"""The limits in force."""


def invert_mixup(images: Tensor, limits: UnmixingLimits = UNMIXING_LIMITS) -> tuple[Tensor, float]:
    """The images (B, 3, S, S) behind mixtures of that shape, and the share l of l x_i + (1 - l) x_next(i), 1 for none.

    Batches of more than `limits.most_images` come back as they are.
    """
    count = len(images)
    best, answer, share = float(unnaturalness(images, limits)), images, 1.0
    if count > limits.most_images:
        return answer, share
    flat = images.flatten(1)
    for guess, matrix in _guesses(count, limits):
        inverse = torch.linalg.inv(matrix).to(flat)
        found = (inverse @ flat).view_as(images)
        score = float(unnaturalness(found, limits))
        if score < best:
            best, answer, share = score, found, guess
    return answer, share


def _guesses(count: int, limits: UnmixingLimits) -> Iterator[tuple[float, Tensor]]:
    """Shares with the matrices (B, B) that they mix by, over all circles."""
    for rest in itertools.permutations(range(1, count)):
        circle = torch.tensor([0, *rest])
        for share in torch.linspace(limits.least_share, limits.most_share, limits.shares).tolist():
            yield share, mixing_matrix(circle, share)


def unnaturalness(images: Tensor, limits: UnmixingLimits = UNMIXING_LIMITS) -> Tensor:
    """How little images (B, 3, S, S) look like B photographs, ().

    Small for few strong edges, that lie elsewhere in each image, and pixels in [-1, 1].
    """
    vertical, horizontal = images.diff(dim=-2).flatten(1), images.diff(dim=-1).flatten(1)
    sizes = torch.cat([vertical, horizontal], dim=1).abs()
    sparse = sizes.mean(1) / sizes.square().mean(1).sqrt().clamp_min(TINY)
    centred = sizes - sizes.mean(1, keepdim=True)
    unit = centred / centred.norm(dim=1, keepdim=True).clamp_min(TINY)
    count = len(images)
    shared = ((unit @ unit.mT).sum() - count) / max(count * (count - 1), 1)
    excess = (images.abs() - 1.0).clamp_min(0.0).mean()
    total: Tensor = sparse.mean() + limits.shared * shared + limits.violation * excess
    return total


def expected_images(images: Tensor, mean: Tensor, limits: UnmixingLimits = UNMIXING_LIMITS) -> Tensor:
    """What mixtures (B, 3, S, S) whose signs were drawn anew are expected to have been, given the public `mean` image.

    Their absolute values a are known. Where a pixel is normal around the mean's value m with variance v, its expected
    value is a tanh(m a / v). v follows from the mean of a^2, m^2 + v, over the batch and a few neighbours: faces differ
    less in their middle than around. One observation shows no more: each sign is one coin, and which images are in a
    mixture takes many mixtures of the same images to tell (Carlini et al. 2021, arXiv:2011.05315).
    """
    sizes = images.abs()
    excess = (sizes.square() - mean.square()).mean((0, 1), keepdim=True)
    padded = functional.pad(excess, (limits.around // 2,) * 4, mode="reflect")
    variance = functional.avg_pool2d(padded, limits.around, 1).clamp_min(limits.least_variance)
    return sizes * torch.tanh(mean * sizes / variance)
