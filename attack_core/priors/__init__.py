"""What images look like: penalties and parametrisations."""

from __future__ import annotations

from attack_core.priors.colour_tv import opponent_axes, opponent_variation
from attack_core.priors.deep_prior import DeepPrior
from attack_core.priors.priors import (
    BatchNormStatistics,
    GroupConsistency,
    L2Norm,
    Prior,
    Scene,
    TotalVariation,
    check_priors,
    cosine_matrix,
    total_variation,
)

__all__ = [
    "BatchNormStatistics",
    "check_priors",
    "cosine_matrix",
    "DeepPrior",
    "GroupConsistency",
    "L2Norm",
    "opponent_axes",
    "opponent_variation",
    "Prior",
    "Scene",
    "total_variation",
    "TotalVariation",
]
