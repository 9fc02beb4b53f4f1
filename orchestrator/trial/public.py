"""Controls of a batch that need no signal: public images, assigned to the truth as an attack's answers are."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from scipy.cluster.vq import kmeans2
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class PublicAnswers:
    """Two answers of as many images as a batch has, (B, 3, S, S) each, made of public images alone.

    `images` are single ones at random; `groups` are the means of B groups of alike ones (k-means, Lloyd 1982): for one
    image that would be the mean image. Scores see them, attacks do not.
    """

    images: Tensor
    groups: Tensor


def public_answers(public: Tensor, count: int, random: torch.Generator) -> PublicAnswers:
    """Answers of `count` images from public images (P, 3, S, S); none twice where there are as many."""
    order = torch.cat([torch.randperm(len(public), generator=random) for _ in range(0, count, len(public))])
    groups = min(count, len(public))
    points = public.flatten(1).double().numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # A group that loses all its images keeps its last mean.
        centres, _ = kmeans2(points, groups, minit="points", rng=np.random.default_rng(0))
    means = torch.from_numpy(centres).to(public.dtype).view(groups, *public.shape[1:])
    return PublicAnswers(images=public[order[:count]], groups=means[torch.arange(count) % groups])
