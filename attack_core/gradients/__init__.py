"""Candidate gradients: handles on layers, what they are compared with, and how."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "batchnorm": ["BATCH_NORM_LIMITS", "SeenStatistics", "has_batch_norm", "statistics_distance"],
        "handles": ["GhostHandle", "GradientHandle", "gradient_handles", "stack_handles"],
        "local_steps": ["Batch", "LocalPath", "Shift", "factored_weights", "handles_at", "path_handles"],
        "objectives": [
            "Both",
            "Cosine",
            "L2",
            "Objective",
            "OwnObjective",
            "Signs",
            "Similarity",
            "Terms",
        ],
        "targets": [
            "check_observation",
            "geometric",
            "gradient_estimate",
            "travelled",
            "velocity_estimate",
            "weights_along",
        ],
        "operations": ["twice_differentiable"],
        "refusals": ["second_derivatives"],
        "tracing": ["LossOf", "couples_examples"],
    },
)
