"""Cross-validation on other layers: whether an image explains gradients that it was not read from.

An image that is fitted to a few noisy numbers explains these better and better while it turns into noise. What tells is
how well it explains the others, whose noise it has not seen: cross-validation (Stone 1974), here along a path of ever
weaker priors.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from attack_core.gradients.comparison.losses import residuals_at
from attack_core.signal.signal_model import matched_numbers, precisions
from fl_core.base.types import Tensors
from fl_core.threat.observation import Observation

Residuals = Callable[[Tensor], Tensor]
"""From images (B, 3, S, S) to what they leave unexplained of the validation numbers (N,), each in units of the known
error's standard deviation."""


@dataclass(frozen=True, kw_only=True)
class StoppingRule:
    """Which point of a path of priors is taken."""

    standard_errors: float = 2.0
    """How far below the best evidence a point may be and still count as good as the best, in standard errors.

    One in Breiman et al. (1984). Two was chosen on synthetic faces and the CelebA sample. Other rules were measured
    (docs/decisions, 0052): the best point itself loses 0.7 to 1.4 dB under strong noise, and an error of the best
    evidence in place of the difference's loses 0.8 dB at 8 bits.
    """


STOPPING_RULE = StoppingRule()
"""The rule in force."""


def residuals_elsewhere(
    observation: Observation, model: nn.Module, gradients: Tensors, used: Collection[str], labels: Tensor
) -> Residuals:
    """What images with these `labels` (B,) leave of all `gradients` but the parameters `used`."""
    known = precisions(observation, gradients)
    rest = {name: weight for name, weight in known.items() if name not in used}
    if not rest:
        return lambda images: images.new_zeros(0)
    matched = matched_numbers(observation, gradients, rest)
    return lambda images: residuals_at(matched, model, observation.state, images.clamp(-1.0, 1.0), labels)


def evidence(start: Tensor, point: Tensor) -> float:
    """How much better the residuals `point` (N,) are than those of the `start`: the decrease of their squared norm."""
    # Of two large squares that hardly differ float32 would keep nothing of the difference.
    return float(torch.dot(start - point, start + point))


def chosen(residuals: Sequence[Tensor], rule: StoppingRule = STOPPING_RULE) -> int:
    """Which point of a path to take, from the residuals of each, the start's first.

    The earliest whose evidence is within `rule.standard_errors` of the best: the rule of Breiman et al. (1984), with
    the error of this difference. The error is 2 d for points whose predictions are d deviations apart, as noise moves
    the difference of two squared distances to it by twice its part along the line between them. So the start, which is
    the prior, is left only for evidence that noise would hardly make.
    """
    best = max(residuals, key=partial(evidence, residuals[0]))
    return next(
        point
        for point, left in enumerate(residuals)
        if evidence(left, best) <= 2.0 * rule.standard_errors * float(torch.linalg.vector_norm(left - best))
    )
