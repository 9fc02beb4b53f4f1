"""Noise under encryption: what a client may add to its update before it encrypts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from defenses.mechanism.draws import Distribution, add_noise
from fl_core.base.types import Config, Tensors, require
from fl_core.threat.facts import Noise

if TYPE_CHECKING:
    from torch import Tensor

    from fl_core.base.rng import Random


@dataclass(frozen=True, kw_only=True)
class EncryptedNoise(Config):
    """Noise that every client adds to each number before encryption.

    `scale` is the standard deviation of `gaussian` noise and the b of `laplace` noise (whose deviation is
    sqrt(2) b). It is no differential privacy: nothing is clipped.
    """

    distribution: Distribution = "laplace"
    scale: float = 0.01

    def __post_init__(self) -> None:
        require(0 < self.scale < float("inf"), self, "scale", "finite and more than 0")

    def add(self, tensors: Tensors, random: Random) -> dict[str, Tensor]:
        """`tensors` with independent noise on every number, drawn on the CPU; whole numbers become float32."""
        floats = {
            name: tensor if tensor.is_floating_point() else tensor.float() for name, tensor in tensors.items()
        }
        return add_noise(floats, self.distribution, self.sigma, random)

    @property
    def sigma(self) -> float:
        """The noise's standard deviation."""
        return self.scale * (math.sqrt(2.0) if self.distribution == "laplace" else 1.0)

    def fact(self) -> Noise:
        """What an attacker who knows of it knows."""
        return Noise(distribution=self.distribution, sigma=self.sigma)
