"""From mixtures of images back to the images: which share and which order a batch was mixed with.

Mixing each image with the next one of a circle is a linear map that can be undone once the one share and the circle
are known. Neither is told, but wrong guesses leave ghosts of other images: more edges (their sparsity is L1 over L2,
Krishnan et al., CVPR 2011), at the same places in two images, and pixels out of range. Images as they came are one of
the guesses.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from fl_core.data.mixing import circle_map

_SHARES = 49
"""Shares that are tried, evenly from 0.51 to 0.99: below one half the two images' roles are swapped."""
_MOST_IMAGES = 6
"""Larger batches have too many circles to try all."""
_VIOLATION = 10.0
"""What the mean excess of pixels over the range counts beside the sparsity of edges."""
_SHARED = 0.2
"""What the mean correlation of two images' edges counts beside it."""
_AROUND, _LEAST_VARIANCE = 5, 0.01
"""Pixels a side that a variance is taken over, and the least one, in normalised pixels."""
_TINY = 1e-12


def unmixed(images: Tensor) -> tuple[Tensor, float]:
    """The images (B, 3, S, S) behind mixtures of that shape, and the share l of l x_i + (1 - l) x_next(i), 1 for none.

    Batches of more than 6 images come back as they are.
    """
    count = len(images)
    best, answer, share = float(unnaturalness(images)), images, 1.0
    if count > _MOST_IMAGES:
        return answer, share
    flat = images.flatten(1)
    for guess, matrix in _guesses(count):
        inverse = torch.linalg.inv(matrix).to(flat)
        found = (inverse @ flat).view_as(images)
        score = float(unnaturalness(found))
        if score < best:
            best, answer, share = score, found, guess
    return answer, share


def _guesses(count: int) -> Iterator[tuple[float, Tensor]]:
    """Shares with the matrices (B, B) that they mix by, over all circles."""
    for rest in itertools.permutations(range(1, count)):
        circle = torch.tensor([0, *rest])
        for share in torch.linspace(0.51, 0.99, _SHARES).tolist():
            yield share, circle_map(circle, share)


def unnaturalness(images: Tensor) -> Tensor:
    """How little images (B, 3, S, S) look like B photographs, ().

    Small for few strong edges, that lie elsewhere in each image, and pixels in [-1, 1].
    """
    vertical, horizontal = images.diff(dim=-2).flatten(1), images.diff(dim=-1).flatten(1)
    sizes = torch.cat([vertical, horizontal], dim=1).abs()
    sparse = sizes.mean(1) / sizes.square().mean(1).sqrt().clamp_min(_TINY)
    centred = sizes - sizes.mean(1, keepdim=True)
    unit = centred / centred.norm(dim=1, keepdim=True).clamp_min(_TINY)
    count = len(images)
    shared = ((unit @ unit.mT).sum() - count) / max(count * (count - 1), 1)
    excess = (images.abs() - 1.0).clamp_min(0.0).mean()
    total: Tensor = sparse.mean() + _SHARED * shared + _VIOLATION * excess
    return total


def unsigned(images: Tensor, mean: Tensor) -> Tensor:
    """What mixtures (B, 3, S, S) whose signs were drawn anew are expected to have been, given the public `mean` image.

    Their absolute values a are known. Where a pixel is normal around the mean's value m with variance v, its expected
    value is a tanh(m a / v). v follows from the mean of a^2, m^2 + v, over the batch and a few neighbours: faces differ
    less in their middle than around. One observation shows no more: each sign is one coin, and which images are in a
    mixture takes many mixtures of the same images to tell (Carlini et al. 2021, arXiv:2011.05315).
    """
    sizes = images.abs()
    excess = (sizes.square() - mean.square()).mean((0, 1), keepdim=True)
    padded = functional.pad(excess, (_AROUND // 2,) * 4, mode="reflect")
    variance = functional.avg_pool2d(padded, _AROUND, 1).clamp_min(_LEAST_VARIANCE)
    return sizes * torch.tanh(mean * sizes / variance)
