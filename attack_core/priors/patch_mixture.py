"""A trained prior: how unlikely the patches of an image are under a mixture of Gaussians that public images taught.

The expected patch log likelihood of Zoran and Weiss (2011): every patch of an image is charged by a mixture of
Gaussians. Here they have full covariances in the leading directions of all patches, and one variance each in the
others, as in probabilistic principal components (Tipping and Bishop 1999): that is several times as fast. The mixture
is learned from public images alone (`attack_core.priors.training`), says nothing of where in the image a patch lies,
and fits images of any size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from fl_core.base.types import Tensors


@dataclass(frozen=True, kw_only=True)
class PatchMixtureLimits:
    """How the penalty is computed."""

    stride: int = 2
    """Pixels from one patch to the next: with 2, each pixel is in nine patches of 6; 1 takes four times as long."""
    unit: float = 3000.0
    """What the penalty is, for each natural unit of the negative log density of an average number of an image.

    Under white errors whose relative size e is known, the posterior weighs a natural unit of an image of D numbers by
    2 e / D. Cross-validation begins at weights of 2e-3 e (`ContinuationLimits`), so at three times that.
    """
    numbers: int = 20_000_000
    """How many numbers may be held at once: more images are taken one after the other."""


PATCH_MIXTURE_LIMITS = PatchMixtureLimits()
"""The limits in force."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PatchMixture:
    """K Gaussians over patches of `size` pixels a side and C channels, D = C * size^2 numbers, in [-1, 1].

    `centre` (D,) is the mean patch and `basis` (R, D) has orthonormal rows, the leading directions. `log_weights` (K,),
    `means` (K, R) and `covariances` (K, R, R) are the mixture's in coordinates of the basis, around the mean patch;
    `rest` (K,) is the variance in each of the D - R other directions, around it.
    """

    centre: Tensor
    basis: Tensor
    log_weights: Tensor
    means: Tensor
    covariances: Tensor
    rest: Tensor
    size: int

    @property
    def channels(self) -> int:
        """How many channels its images have."""
        return len(self.centre) // self.size**2

    def log_density(self, patches: Tensor) -> Tensor:
        """Of each of the patches (M, D), natural logarithm, (M,)."""
        return torch.logsumexp(self.log_joint(patches), 1)

    def log_joint(self, patches: Tensor) -> Tensor:
        """Logarithm of weight times density of each Gaussian, (M, K), for patches (M, D)."""
        return self.log_joint_of(*self.coordinates(patches))

    def coordinates(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinates (M, R) of patches (M, D) in the basis, and their squared distance (M,) from its span."""
        apart = patches - self.centre
        inside = apart @ self.basis.mT
        if len(self.basis) == len(self.centre):
            return inside, torch.zeros_like(inside[:, 0])
        return inside, (apart.square().sum(1) - inside.square().sum(1)).clamp_min(0.0)

    def log_joint_of(self, inside: Tensor, outside: Tensor) -> Tensor:
        """`log_joint` of what `coordinates` gives."""
        whitening, shift, constant = self._precomputed
        components, numbers = self.means.shape
        whitened = functional.linear(inside, whitening, -shift).view(len(inside), components, numbers)
        return constant - 0.5 * (whitened.square().sum(2) + outside[:, None] / self.rest)

    def penalty(self, images: Tensor) -> Tensor:
        """The negative log density of each image's patches, each counted by its share of pixels, (N,).

        It is in units of `PatchMixtureLimits`, by which an image's size does not matter. Images are (N, C, H, W), in
        [-1, 1] or near, no side shorter than a patch.
        """
        limits = PATCH_MIXTURE_LIMITS
        each = self.means.numel() * math.prod(-(-side // limits.stride) for side in images.shape[-2:])
        together = max(1, limits.numbers // each)
        return torch.cat([self._penalty(part) for part in images.split(together)])

    def _penalty(self, images: Tensor) -> Tensor:
        stride = PATCH_MIXTURE_LIMITS.stride
        # The last rows and columns are repeated where patches would leave some out.
        rest = [-(side - self.size) % stride for side in images.shape[-2:]]
        padded = functional.pad(images, (0, rest[1], 0, rest[0]), mode="replicate") if any(rest) else images
        patches = functional.unfold(padded, self.size, stride=stride).mT
        each = self.log_density(patches.flatten(0, 1)).view(len(images), -1).sum(1)
        share = (stride / self.size) ** 2 / math.prod(images.shape[1:])
        return -PATCH_MIXTURE_LIMITS.unit * share * each

    def to(self, device: torch.device) -> Self:
        """The same on `device`."""
        return replace(self, **{name: value.to(device) for name, value in self.tensors().items()})

    def tensors(self) -> Tensors:
        """What it consists of besides `size`, by name."""
        names = ("centre", "basis", "log_weights", "means", "covariances", "rest")
        return {name: getattr(self, name) for name in names}

    @cached_property
    def _precomputed(self) -> tuple[Tensor, Tensor, Tensor]:
        """Whitening maps (K R, R), the whitened means (K R,), and the logarithms (K,) that depend on no patch."""
        components, numbers = self.means.shape
        factors = torch.linalg.cholesky(self.covariances)
        unit = torch.eye(numbers, dtype=factors.dtype, device=factors.device).expand_as(factors)
        whitening = torch.linalg.solve_triangular(factors, unit, upper=False)
        shift = (whitening @ self.means[:, :, None])[:, :, 0]
        volume = factors.diagonal(dim1=1, dim2=2).log().sum(1)
        others = len(self.centre) - numbers
        volume = volume + 0.5 * others * self.rest.log()
        constant = self.log_weights - volume - 0.5 * len(self.centre) * math.log(2.0 * math.pi)
        return whitening.reshape(components * numbers, numbers), shift.reshape(-1), constant
