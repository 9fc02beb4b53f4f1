"""What a network passes strongly and what weakly, as a metric for a descent: by windows, or by frequencies."""

from __future__ import annotations

import torch
from torch import Tensor

from attack_core.base.probes import Features
from attack_core.inversion.descent.cosine import CosinePreconditioner
from attack_core.inversion.descent.metric import Metric
from attack_core.inversion.descent.windows import WINDOW_LIMITS, WindowPreconditioner


def measured_gain(
    features: Features, image: Tensor, evaluations: int, *, generator: torch.Generator
) -> Metric:
    """The preconditioner of `features` at `image` (1, C, H, W) for a descent of so many evaluations.

    Where fewer windows than a window has numbers lie in an image, as in colour images below 26 pixels, frequencies
    are better for descents of up to 120 evaluations, and never much worse (docs/decisions, 0118).
    """
    if WINDOW_LIMITS.enough(image.shape[1:]):
        return WindowPreconditioner.measured(features, image, evaluations, generator=generator)
    return CosinePreconditioner.measured(features, image, generator)
