"""The clients' networks."""

from __future__ import annotations

from fl_core.models.bottleneck import (
    Bottleneck,
    code_of,
    divergence,
    draw_code_noise,
    encoded,
    find_bottleneck,
    with_noise,
)
from fl_core.models.zoo import (
    ModelConfig,
    ModelName,
    build_model,
    check_batch,
    initial_state,
    layer_input,
    predict,
)

__all__ = [
    "Bottleneck",
    "build_model",
    "check_batch",
    "code_of",
    "divergence",
    "draw_code_noise",
    "encoded",
    "find_bottleneck",
    "initial_state",
    "layer_input",
    "ModelConfig",
    "ModelName",
    "predict",
    "with_noise",
]
