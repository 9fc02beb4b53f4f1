"""The preconditioner of frequencies: coordinates in which a network passes all structure about equally strongly.

Convolutions with pooling pass coarse structure a hundred to ten thousand times more strongly than fine structure.
Cosine coefficients in opponent colours, each times the root of the network's gain at its frequency, even that out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attack_core.base.probes import Features, sent_back
from attack_core.priors.colour_tv import colour_axes
from attack_core.priors.penalties import cosine_matrix


@dataclass(frozen=True, kw_only=True)
class CosineLimits:
    """How the network's gain at each frequency is estimated. Neither field was measured against other values."""

    probes: int = 8
    """How many times white noise is sent backwards; the mean over them, and over a band, is the estimate."""
    floor: float = 1e-4
    """Gains below this share of the largest are noise, and count as this share."""


COSINE_LIMITS = CosineLimits()
"""The limits in force."""


@dataclass(frozen=True)
class CosinePreconditioner:
    """Cosine coefficients: `rows` (H, H), `columns` (W, W), `colours` (C, C) are orthonormal; `scale` divides."""

    rows: Tensor
    columns: Tensor
    colours: Tensor
    scale: Tensor

    @classmethod
    def measured(
        cls,
        features: Features,
        image: Tensor,
        generator: torch.Generator,
        limits: CosineLimits = COSINE_LIMITS,
    ) -> CosinePreconditioner:
        """Scales from the gain at `image` (1, C, H, W): white noise sent backwards has the power of J^T J.

        Where no pixel moves a feature, as where all units are off, they are 1.
        """
        rows, columns = (cosine_matrix(side).to(image) for side in image.shape[-2:])
        plain = cls(rows, columns, colour_axes(image), torch.ones_like(image[0]))
        power = torch.zeros_like(image[0])
        for back in sent_back(features, image, limits.probes, generator):
            power += plain.coefficients(back)[0].square()
        gain = _band_means(power).sqrt()
        if not bool(gain.any()):
            return plain
        return cls(rows, columns, plain.colours, (gain / gain.max()).clamp_min(limits.floor).sqrt())

    def turned(self, gradient: Tensor) -> Tensor:
        """See `Metric`."""
        return self.images(self.gradient(gradient))

    def coefficients(self, images: Tensor) -> Tensor:
        """Unscaled coefficients of images, both (B, C, H, W)."""
        turned = torch.einsum("kc,nchw->nkhw", self.colours, images)
        return self.rows @ turned @ self.columns.mT

    def gradient(self, images: Tensor) -> Tensor:
        """A loss's gradient by scaled coefficients, where the one by the images is `images`, both (B, C, H, W)."""
        return self.coefficients(images) / self.scale

    def scaled(self, images: Tensor) -> Tensor:
        """The scaled coefficients of images, both (B, C, H, W): the inverse of `images`."""
        return self.coefficients(images) * self.scale

    def images(self, scaled: Tensor) -> Tensor:
        """The images of scaled coefficients, both (B, C, H, W)."""
        planes = self.rows.mT @ (scaled / self.scale) @ self.columns
        return torch.einsum("kc,nkhw->nchw", self.colours, planes)


def _band_means(power: Tensor) -> Tensor:
    """Each coefficient's power (C, H, W) replaced by the mean over its channel's half-octave of frequency."""
    channels, height, width = power.shape
    longer = max(height, width)
    down = torch.arange(height, device=power.device) * (longer / height)
    across = torch.arange(width, device=power.device) * (longer / width)
    frequency = torch.maximum(down[:, None], across[None, :])
    band = (2.0 * torch.log2(frequency + 1.0)).round().long().expand(channels, -1, -1)
    count = int(band.max()) + 1
    index = (band + count * torch.arange(channels, device=power.device)[:, None, None]).flatten()
    empty = torch.zeros(count * channels, device=power.device)
    members = empty.index_add(0, index, torch.ones_like(power).flatten())
    sums = empty.index_add(0, index, power.flatten())
    return (sums / members.clamp_min(1.0))[index].view(power.shape)
