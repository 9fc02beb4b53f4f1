"""Clipping: an update scaled to a bounded L2 norm."""

from __future__ import annotations

import math
from dataclasses import replace

from fl_core.base.decibels import energy, scaled
from fl_core.base.types import ClientUpdate


def bounded(update: ClientUpdate, max_norm: float) -> ClientUpdate:
    """The update clipped as a whole, with nothing of its buffers."""
    import torch

    still = {name: torch.zeros_like(value) for name, value in update.buffers.items()}
    return replace(clip(update, max_norm), buffers=still)


def clip(update: ClientUpdate, max_norm: float) -> ClientUpdate:
    """The update scaled to an L2 norm of at most `max_norm` over all its tensors, and the factor in [0, 1] noted.

    No factor bounds NaN or infinity. An update that holds one becomes zeros, which are within any bound, and counts as
    `not_finite`.
    """
    import torch

    norm = math.sqrt(sum(map(energy, update.tensors.values())))
    if not math.isfinite(norm):
        zeros = {name: torch.zeros_like(value) for name, value in update.tensors.items()}
        return replace(update, tensors=zeros, clip_factor=0.0, not_finite=update.not_finite + 1)
    factor = min(1.0, max_norm / norm) if norm > 0 else 1.0
    clipped = {name: scaled(value, factor) for name, value in update.tensors.items()}
    before = 1.0 if update.clip_factor is None else update.clip_factor
    return replace(update, tensors=clipped, clip_factor=factor * before)
