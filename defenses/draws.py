"""Noise on every number of an update."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

Distribution = Literal["gaussian", "laplace"]


def add_noise(
    tensors: Mapping[str, Tensor], distribution: Distribution, sigma: float, generator: torch.Generator
) -> dict[str, Tensor]:
    """Tensors plus independent noise of standard deviation `sigma`, drawn on the CPU."""
    return {
        name: tensor + sigma * _draw(distribution, tensor.shape, generator).to(tensor.device)
        for name, tensor in tensors.items()
    }


def _draw(distribution: Distribution, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Numbers of variance 1."""
    if distribution == "gaussian":
        return torch.randn(shape, generator=generator)
    # The difference of two exponentials is Laplace, and never takes the logarithm of zero.
    both = torch.empty((2, *shape)).exponential_(math.sqrt(2.0), generator=generator)
    return both[0] - both[1]
