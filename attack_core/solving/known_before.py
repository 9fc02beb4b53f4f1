"""The image that is known before the signal: where searches begin, and what is answered where nothing is learned."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attack_core.signal.inits import initial_images
from fl_core.threat.observation import Observation


@dataclass(frozen=True, kw_only=True)
class StartLimits:
    """Where a search begins that knows no mean image."""

    grey: float = 0.01
    """The standard deviation of the start, in normalised pixels.

    Networks without biases have no slope at exact grey; the size was not measured.
    """


START_LIMITS = StartLimits()
"""The limits in force."""


def known_before(observation: Observation, generator: torch.Generator) -> Tensor:
    """The image (1, 3, S, S) that is known before the signal: the mean public one, or near grey."""
    if observation.public_mean is not None:
        return observation.public_mean[None]
    # Not quite grey: networks without biases have no slope there.
    shape = (1, 1, *observation.model.shape.size)
    return initial_images("fourier", shape, std=START_LIMITS.grey, generator=generator)[0]
