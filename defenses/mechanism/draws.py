"""Noise on every number of an update."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from fl_core.base.decibels import decibels, energy
from fl_core.base.rng import normal
from fl_core.base.types import ClientUpdate

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from fl_core.base.rng import Random

Distribution = Literal["gaussian", "laplace"]


def add_noise(
    tensors: Mapping[str, Tensor], distribution: Distribution, sigma: float, random: Random
) -> dict[str, Tensor]:
    """Tensors plus `draw_noise`."""
    drawn = draw_noise(tensors, distribution, sigma, random)
    return {name: tensor + drawn[name] for name, tensor in tensors.items()}


def draw_noise(
    like: Mapping[str, Tensor], distribution: Distribution, sigma: float, random: Random
) -> dict[str, Tensor]:
    """Independent noise of standard deviation `sigma` in the shapes of `like` and on its devices, drawn on the CPU."""
    return {
        name: sigma * _draw(distribution, tensor.shape, random).to(tensor.device)
        for name, tensor in like.items()
    }


def perturb(update: ClientUpdate, distribution: Distribution, sigma: float, random: Random) -> ClientUpdate:
    """The update with noise of standard deviation `sigma` on every number of its tensors, and its ratio noted."""
    drawn = draw_noise(update.tensors, distribution, sigma, random)
    noisy = {name: tensor + drawn[name] for name, tensor in update.tensors.items()}
    noise, signal = (sum(map(energy, tensors.values())) for tensors in (drawn, update.tensors))
    return dataclasses.replace(update, tensors=noisy, noise_to_signal_db=decibels(noise, signal))


def _draw(distribution: Distribution, shape: torch.Size, random: Random) -> Tensor:
    """Numbers of variance 1."""
    if distribution == "gaussian":
        return normal(random, shape)

    import numpy as np
    import torch

    # The difference of two exponentials is Laplace, and never takes the logarithm of zero.
    both = random.standard_exponential((2, *shape), dtype=np.float32)
    return torch.from_numpy(both[0] - both[1]) / math.sqrt(2.0)
