"""A trained prior: how unlikely the patches of an image are under a mixture of Gaussians that public images taught.

The expected patch log likelihood of Zoran and Weiss (2011): every patch of an image, less its mean level, is charged
by a mixture of Gaussians with mean 0. They differ in contrast and direction. Here they have full covariances in the
leading directions of all patches, and one variance each in the others, as in probabilistic principal components
(Tipping and Bishop 1999): that is several times as fast. The mixture is learned from public images alone
(`attack_core.priors.mixture_training`), says nothing of where in the image a patch lies, and fits images of any size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

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
    """K Gaussians with mean 0 over the contrast of patches: C channels of `size` pixels a side, each less its mean.

    A patch has D = C * size^2 numbers, its contrast D - C free ones. `basis` (R, D) has orthonormal rows, the leading
    directions of contrast. `log_weights` (K,) and `covariances` (K, R, R) are the mixture's in coordinates of the
    basis; `rest` (K,) is the variance in each of the D - C - R other directions. All levels are equally likely.
    """

    basis: Tensor
    log_weights: Tensor
    covariances: Tensor
    rest: Tensor
    size: int

    @property
    def channels(self) -> int:
        """How many channels its images have."""
        return self.basis.shape[1] // self.size**2

    @property
    def numbers(self) -> int:
        """How many numbers a contrast is free in."""
        return self.basis.shape[1] - self.channels

    def log_density(self, patches: Tensor) -> Tensor:
        """Of the contrast of each of the patches (M, D), natural logarithm, (M,)."""
        return torch.logsumexp(self.log_joint(*self.coordinates(patches)), 1)

    def coordinates(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinates (M, R) of the contrast of patches (M, D), and its squared distance (M,) from the basis."""
        channels = patches.unflatten(1, (self.channels, -1))
        contrast = (channels - channels.mean(2, keepdim=True)).flatten(1)
        inside = contrast @ self.basis.mT
        return inside, (contrast.square().sum(1) - inside.square().sum(1)).clamp_min(0.0)

    def log_joint(self, inside: Tensor, outside: Tensor) -> Tensor:
        """Logarithm of weight times density of each Gaussian, (M, K), at what `coordinates` gives."""
        whitening, constant = self._precomputed
        whitened = functional.linear(inside, whitening).view(len(inside), *self.covariances.shape[:2])
        return constant - 0.5 * (whitened.square().sum(2) + outside[:, None] / self.rest)

    def penalty(self, images: Tensor) -> Tensor:
        """The negative log density of each image's patches, each counted by its share of pixels, (N,).

        It is in units of `PatchMixtureLimits`, by which an image's size does not matter. Images are (N, C, H, W), in
        [-1, 1] or near, no side shorter than a patch.
        """
        limits = PATCH_MIXTURE_LIMITS
        each = self.covariances[..., 0].numel() * math.prod(
            -(-side // limits.stride) for side in images.shape[-2:]
        )
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
        moved: dict[str, Any] = {name: value.to(device) for name, value in self.tensors().items()}
        return replace(self, **moved)

    def tensors(self) -> Tensors:
        """What it consists of besides `size`, by name."""
        return {name: getattr(self, name) for name in ("basis", "log_weights", "covariances", "rest")}

    @cached_property
    def _precomputed(self) -> tuple[Tensor, Tensor]:
        """Whitening maps (K R, R), and the logarithms (K,) that depend on no patch."""
        factors = torch.linalg.cholesky(self.covariances)
        kept = factors.shape[1]
        unit = torch.eye(kept, dtype=factors.dtype, device=factors.device).expand_as(factors)
        whitening = torch.linalg.solve_triangular(factors, unit, upper=False)
        volume = factors.diagonal(dim1=1, dim2=2).log().sum(1)
        volume = volume + 0.5 * (self.numbers - kept) * self.rest.log()
        constant = self.log_weights - volume - 0.5 * self.numbers * math.log(2.0 * math.pi)
        return whitening.flatten(0, 1), constant
