"""Evidence for an image in the numbers that it was not read from.

An image that is fitted to a few noisy numbers explains these better and better while it turns into noise. What tells is
how well it explains the others, whose noise it has not seen: cross-validation (Stone 1974), here along a path of priors
that give way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

from torch import Tensor, nn

from attack_core.knowledge import matched_numbers, precisions
from attack_core.objectives import squared_distance
from fl_core.threat import Observation
from fl_core.types import Tensors

Evidence = Callable[[Tensor], float]
"""From images (B, 3, S, S) to how much better they explain the numbers held out than the start of the search does, as a
decrease of the squared distance in units of the known error's variance."""


def evidence_elsewhere(
    observation: Observation,
    model: nn.Module,
    gradients: Tensors,
    used: Collection[str],
    labels: Tensor,
    start: Tensor,
) -> Evidence:
    """Evidence in all of `gradients` but the parameters `used`, over `start` (B, 3, S, S) with the same `labels`."""
    known = precisions(observation, gradients)
    rest = {name: weight for name, weight in known.items() if name not in used}
    if not rest:
        return lambda _: 0.0
    matched = matched_numbers(observation, gradients, rest)

    def missed(images: Tensor) -> float:
        return float(squared_distance(matched, model, observation.state, images.clamp(-1.0, 1.0), labels))

    before = missed(start)
    return lambda images: before - missed(images)


def chosen(found: list[float]) -> int:
    """Which point of a path to take, from the evidence for each: the first is the start and has 0.

    The earliest whose evidence is within a standard error of the best (the rule of Breiman et al. 1984). For evidence
    e that error is at most about 2 sqrt(e): two points whose predictions are d deviations apart differ by about d^2,
    and noise moves that by 2 d. So the start is left for evidence above 4 alone.
    """
    best = max(found)
    enough = best - 2.0 * math.sqrt(best)
    return next(point for point, evidence in enumerate(found) if evidence >= enough)
