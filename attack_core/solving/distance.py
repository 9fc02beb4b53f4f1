"""How far the gradient of an answer is from the signal, relatively."""

from __future__ import annotations

from torch import Tensor, nn

from attack_core.gradients.comparison.losses import squared_distance
from attack_core.gradients.comparison.matched import Matched
from fl_core.base.decibels import TINY
from fl_core.base.types import ModelState, Tensors


def gradient_mismatch(
    model: nn.Module, state: ModelState, gradients: Tensors, images: Tensor, labels: Tensor
) -> float:
    """`relative_distance` from all numbers of `gradients` (by parameter name)."""
    matched = Matched.of(gradients, dict.fromkeys(gradients, 1.0))
    return relative_distance(matched, model, state, images, labels)


def relative_distance(
    matched: Matched, model: nn.Module, state: ModelState, images: Tensor, labels: Tensor
) -> float:
    """Squared L2 distance of the gradient of `images` (B, 3, S, S) with `labels` (B,), over the target's square."""
    return relative(squared_distance(matched, model, state, images, labels), matched)


def relative(distance: Tensor, matched: Matched) -> float:
    """A squared distance () from what is matched, over the target's square."""
    # The expansion of squares cancels where the match is nearly exact.
    return max(float(distance / matched.squares.sum().clamp_min(TINY)), 0.0)
