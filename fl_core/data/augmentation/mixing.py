"""Mixtures of a batch: each image with the next one of a random circle, by one share; the map and its inverse."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def mixing_matrix(circle: Tensor, share: float) -> Tensor:
    """The matrix (B, B) that makes `share` of an image i and 1 - `share` of the one after i in `circle` (B,)."""
    import torch

    count = len(circle)
    following = torch.zeros(count, count)
    following[circle, circle.roll(-1)] = 1.0
    return share * torch.eye(count) + (1.0 - share) * following
