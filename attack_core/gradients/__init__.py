"""Candidate gradients: handles on layers, what they are compared with, and how."""

from __future__ import annotations

from attack_core.gradients.batchnorm import has_batch_norm, statistics_distance
from attack_core.gradients.handles import (
    GhostHandle,
    GradientHandle,
    LossOf,
    couples_examples,
    gradient_handles,
    stack_handles,
)
from attack_core.gradients.local_steps import (
    Batch,
    LocalPath,
    Shift,
    handles_at,
    linear_weights,
    path_handles,
)
from attack_core.gradients.objectives import (
    L2,
    Both,
    Cosine,
    LayerMode,
    Matched,
    Objective,
    Signs,
    Similarity,
    choose,
    layer_weights,
    loss_at,
    residuals_at,
    squared_distance,
)
from attack_core.gradients.targets import (
    check_observation,
    geometric,
    gradient_estimate,
    travelled,
    velocity_estimate,
    weights_along,
)

__all__ = [
    "Batch",
    "Both",
    "check_observation",
    "choose",
    "Cosine",
    "couples_examples",
    "geometric",
    "GhostHandle",
    "gradient_estimate",
    "gradient_handles",
    "GradientHandle",
    "handles_at",
    "has_batch_norm",
    "L2",
    "layer_weights",
    "LayerMode",
    "linear_weights",
    "LocalPath",
    "loss_at",
    "LossOf",
    "Matched",
    "Objective",
    "path_handles",
    "residuals_at",
    "Shift",
    "Signs",
    "Similarity",
    "squared_distance",
    "stack_handles",
    "statistics_distance",
    "travelled",
    "velocity_estimate",
    "weights_along",
]
