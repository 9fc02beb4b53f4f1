"""Deep image prior: images as the output of a small untrained network.

Ulyanov et al. 2018, arXiv:1711.10925. The network's input is fixed noise; its weights are what is optimised.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fl_core.base.shape import ImageShape


@dataclass(frozen=True, kw_only=True)
class PriorNetwork:
    """The size of the network: far smaller than that of Ulyanov et al., for small images. Not measured."""

    noise_channels: int = 16
    """Channels of the fixed noise."""
    width: int = 32
    """Channels of each convolution."""
    groups: int = 4
    """Groups of each group norm (Wu & He 2018); they divide `width`."""
    slope: float = 0.2
    """The slope of the leaky ReLU below 0."""


PRIOR_NETWORK = PriorNetwork()
"""The network in use."""


class DeepPrior:
    """One candidate's B images (B, C, H, W), painted by one network (32,739 weights for RGB) from B fixed noise maps.

    Pixels lie within (-1, 1).
    """

    def __init__(
        self, images: int, shape: ImageShape, generator: torch.Generator, device: torch.device
    ) -> None:
        with torch.device("meta"):
            self._network = _network(shape.channels)
        self._sides = (shape.height, shape.width)
        coarse = (math.ceil(shape.height / 8), math.ceil(shape.width / 8))
        self._noise = torch.randn((images, PRIOR_NETWORK.noise_channels, *coarse), generator=generator).to(
            device
        )
        self._weights = {
            name: _initial(parameter.shape, name, generator).to(device).requires_grad_(True)
            for name, parameter in self._network.named_parameters()
        }

    def leaves(self) -> list[Tensor]:
        """The network's weights."""
        return list(self._weights.values())

    def image(self) -> Tensor:
        """What the network paints now, differentiable with respect to its weights."""
        painted: Tensor = torch.func.functional_call(self._network, self._weights, (self._noise,))
        height, width = self._sides
        return painted[..., :height, :width]

    def clamp(self, bound: float) -> None:
        """Nothing: the last layer bounds the pixels."""


def _network(painted: int) -> nn.Sequential:
    """Three doublings of the noise's size, each after a convolution; group norms keep the scale (Wu & He 2018)."""
    layers: list[nn.Module] = []
    channels, width, slope = PRIOR_NETWORK.noise_channels, PRIOR_NETWORK.width, PRIOR_NETWORK.slope
    groups = PRIOR_NETWORK.groups
    for _ in range(3):
        layers += [
            nn.Conv2d(channels, width, 3, padding=1),
            nn.GroupNorm(groups, width),
            nn.LeakyReLU(slope),
            nn.Upsample(scale_factor=2, mode="bilinear"),
        ]
        channels = width
    layers += [nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(groups, width), nn.LeakyReLU(slope)]
    return nn.Sequential(*layers, nn.Conv2d(width, painted, 1), nn.Tanh())


def _initial(shape: torch.Size, name: str, generator: torch.Generator) -> Tensor:
    """He et al. 2015 normal for convolutions; ones and zeros for the norms and biases."""
    if len(shape) == 4:
        deviation = math.sqrt(2.0 / ((1.0 + PRIOR_NETWORK.slope**2) * math.prod(shape[1:])))
        return torch.randn(shape, generator=generator) * deviation
    return torch.ones(shape) if name.endswith("weight") else torch.zeros(shape)
