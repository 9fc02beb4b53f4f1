"""What is matched: chosen parameters with their targets, read once, and the factors of large ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor
from torch.linalg import vector_norm

from attack_core.gradients.comparison.products import Factors
from attack_core.gradients.comparison.terms import Terms
from attack_core.gradients.handles import GradientHandle, as_matrix
from fl_core.base.rng import generator
from fl_core.base.types import Tensors


@dataclass(frozen=True, kw_only=True)
class FactorLimits:
    """When a target is factored."""

    rounding: float = 2e-6
    """Factors whose product misses a target by so much of its norm are as good.

    Measured in float32: 3e-7 to 8e-7 for exact products of 1 to 8 images; what is missed is rounding, and at random."""
    large: int = 1 << 18
    """Targets of fewer numbers are not factored: reading them costs nothing."""
    ranks: int = 4
    """Ranks up to so many times the number of images are looked for: a convolution has a row for each pixel."""
    most_rank: int = 64
    """Larger ranks are not looked for."""
    spare: int = 4
    """Probes beyond the rank, as usual."""


FACTOR_LIMITS = FactorLimits()
"""The limits in force."""


@dataclass(frozen=True)
class Matched:
    """What is matched: chosen parameters with their targets, squared norms and weights; fixed during an attack.

    `masks` and `scaled` are those of `Terms`.
    """

    names: tuple[str, ...]
    targets: tuple[Tensor, ...]
    squares: Tensor
    weights: Tensor
    masks: tuple[Tensor | None, ...]
    scaled: bool
    factors: tuple[Factors | None, ...]

    @classmethod
    def of(
        cls,
        targets: Tensors,
        weights: Mapping[str, float],
        *,
        sent: Mapping[str, Tensor] | None = None,
        scaled: bool = False,
    ) -> Matched:
        """The parameters named in `weights`; `sent` masks the numbers of `targets` that are known."""
        masks = tuple(_mask_of(sent or {}, name, targets[name]) for name in weights)
        pairs = zip(weights, masks, strict=True)
        chosen = tuple(targets[name] if mask is None else targets[name] * mask for name, mask in pairs)
        values = torch.tensor(list(weights.values()), dtype=torch.float32)
        # They are taken once: for cnn64 that costs as much as a tenth of an iteration. They are sums of squares: the
        # library's norm of eight million numbers is off by 2e-4, and a distance is a difference of squares.
        squares = torch.stack([target.square().sum() for target in chosen])
        known = (None,) * len(chosen)
        return cls(tuple(weights), chosen, squares, values.to(squares.device), masks, scaled, known)

    @property
    def numbers(self) -> int:
        """How many numbers are matched."""
        pairs = zip(self.targets, self.masks, strict=True)
        return sum(target.numel() if mask is None else int(mask.sum()) for target, mask in pairs)

    def factored(self, images: int) -> Self:
        """The same with the factors of large targets that so few `images` left of low rank, up to rounding.

        An undefended gradient of a fully connected layer is of the images' number, and reading it whole takes most
        of an inner product's time.
        """
        pairs = zip(self.targets, self.masks, strict=True)
        return replace(self, factors=tuple(_factors(t, images) if m is None else None for t, m in pairs))

    def terms(self, handles: Mapping[str, GradientHandle]) -> Terms:
        """The inner products' ingredients for one evaluation."""
        return Terms(
            handles=tuple(handles[name] for name in self.names),
            targets=self.targets,
            squares=self.squares,
            weights=self.weights,
            masks=self.masks,
            scaled=self.scaled,
            factors=self.factors,
        )


def _factors(target: Tensor, images: int, limits: FactorLimits = FACTOR_LIMITS) -> Factors | None:
    """Matrices whose product is `target` up to rounding, by a random range (Halko et al. 2011), or None."""
    rank = min(limits.ranks * images, limits.most_rank) + limits.spare
    if target.dim() not in (2, 4) or target.numel() < limits.large:
        return None
    matrix = as_matrix(target)
    if min(matrix.shape) < 4 * rank:
        return None
    probes = torch.randn((matrix.shape[1], rank), generator=generator("factors")).to(matrix)
    left, _ = torch.linalg.qr(matrix @ probes)
    right = left.mT @ matrix
    missed = vector_norm(matrix - left @ right)
    return (left, right) if bool(missed <= limits.rounding * vector_norm(matrix)) else None


def _mask_of(sent: Mapping[str, Tensor], name: str, target: Tensor) -> Tensor | None:
    mask = sent.get(name)
    return None if mask is None or bool(mask.all()) else mask.to(target)
