"""One image's patches from the gradients of a patch embedding and of learned positions.

A token is W patch + b + position, so the gradient of the positions *is* the error e_t of every token, and that of W is
the sum over t of e_t patch_t: linear equations in the patches, D for each number of a patch, in T unknowns (the idea of
Lu et al. 2022, APRIL, arXiv:2112.14087, here at the embedding instead of the first attention). They are solved where
there are at least as many independent ones as tokens. LayerNorm makes errors sum to 0, so at most D - 1 are.

Where there are more equations than patches, what they miss is noise, whose size is read off where nobody tells it.

What they leave open or noise hides, a prior fills: pictures are smooth. Both together are a Gaussian posterior, whose
mean is found in the singular directions of the errors: those that the equations settle directly, the others by
conjugate gradients. Noise on the errors themselves is shrunk away first.

The algebra runs in float64 on the CPU: it is small, and some accelerators have no float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from attack_core.base.certificate import Certificate, least_psnr, undetermined
from attack_core.base.conjugate_gradients import solve_definite
from attack_core.tokens.embedding import PatchEmbedding, PatchLayout
from fl_core.base.device import exact

_PURPOSE = "solving for a transformer's patches"


@dataclass(frozen=True, kw_only=True)
class TokenLimits:
    """What pictures are like before the signal, and where arithmetic ends."""

    variance: float = 0.15
    """Of a pixel in [-1, 1] around the mean image.

    Measured on twenty photographs, of which four are among the figures: 0.15 at 32 pixels, 0.20 at 224.
    """
    difference: float = 0.025
    """The mean square of the difference of neighbouring pixels: 0.032 at 32, 0.021 at 224, on the same photographs."""
    rounding: float = 1e-6
    """Singular values below this share of the largest are what float32 leaves of 0.

    Those of rounding were at 1e-9 of the largest on torchvision's ViT-Ti/16, and cuts at 1e-5 and 1e-6 agree there to
    one direction. Of 191 right ones up to 30 are below 1e-4.
    """
    fewest_spare: int = 8
    """From how many equations beyond one for each patch the size of an untold noise is read off; not measured."""
    settled: float = 1e4
    """Directions in which the equations weigh this much more than the prior are left to the equations alone."""
    most_turns: int = 200
    """Conjugate gradients: steps at most. Twenty to fifty were enough on three photographs."""
    converged: float = 1e-8
    """Conjugate gradients: the relative residual at which they end."""

    @property
    def most(self) -> float:
        """The largest that `prior` makes of a picture of length 1: four neighbours, whose differences weigh on both."""
        return 1.0 / self.variance + 4.0 / self.difference

    def prior(self, picture: Tensor) -> Tensor:
        """The slope of minus the log of the prior at `picture` (C, H, W), which is what is not the mean image."""
        return picture / self.variance + roughness(picture) / (2.0 * self.difference)


TOKEN_LIMITS = TokenLimits()
"""The limits in force."""


@dataclass(frozen=True, kw_only=True)
class TokenEquations:
    """The equations of one image: `errors` (T, D), the embedding's gradient `weight` (D, I), and how far they are off.

    `error_sigma` and `weight_sigma` are the standard deviations of known noise on the two.
    """

    embedding: PatchEmbedding
    errors: Tensor
    weight: Tensor
    error_sigma: float = 0.0
    weight_sigma: float = 0.0

    def solve(self, mean: Tensor, limits: TokenLimits = TOKEN_LIMITS) -> Solution:
        """The picture (C, H, W), float32, where `mean` (C, H, W) is what is expected without a signal."""
        errors, weight = exact(self.errors, _PURPOSE), exact(self.weight, _PURPOSE)
        scale, offset = (exact(each, _PURPOSE) for each in (self.embedding.scale, self.embedding.offset))
        centre = exact(mean, _PURPOSE)
        layout = self.embedding.on_cpu()
        # In pixels, around the mean image: what is unknown then has mean 0.
        known = layout.patches_of(centre)
        observed = (weight - errors.mT @ (known * scale + offset)) / scale
        left, values, right = torch.linalg.svd(errors.mT, full_matrices=True)
        rank = len(values)
        # What is left in directions that no patch reaches, (D - T, I), is noise.
        spare = (left.mT @ observed)[len(errors) :]
        expected = (known + offset / scale).square().sum() / known.shape[1]
        energy = float(expected) + len(errors) * limits.variance
        noise, error_noise = self._noise(float(values[0]), scale, energy, spare, limits)
        squares = torch.zeros(len(errors), dtype=errors.dtype)
        squares[:rank] = _without_noise(values.square(), errors, error_noise)
        squares[squares.sqrt() <= limits.rounding * values[0]] = 0.0
        said = torch.zeros_like(known)
        said[:rank] = squares[:rank, None].sqrt() * (left.mT @ observed)[:rank]
        said[squares == 0] = 0.0
        precision = squares / noise
        found = _posterior(layout, right, precision, said / noise, centre, limits)
        patches = right.mT @ found + known
        picture = layout.picture_of(patches, centre)
        norm = torch.linalg.vector_norm
        missed = norm(errors.mT @ (patches * scale + offset) - weight) / norm(weight)
        determined = int((precision * limits.variance > 1.0).sum())
        return Solution(
            picture=picture.float(),
            residual=float(missed),
            determined=determined,
            certificate=self._certificate(squares.sqrt(), noise, len(spare), float(missed), centre, limits),
        )

    def _certificate(
        self, sizes: Tensor, noise: float, spare: int, residual: float, mean: Tensor, limits: TokenLimits
    ) -> Certificate:
        """From singular values `sizes` (T,), 0 where rounding hides them, and the variance `noise` of one equation."""
        count, width = self.embedding.pixels.shape
        rank, unknowns = int((sizes > 0).sum()), mean.numel()
        if rank < count or count * width < unknowns:
            return undetermined(unknowns, rank * width, residual, "everywhere")
        checked = spare >= limits.fewest_spare or self.error_sigma > 0 or self.weight_sigma > 0
        # All that is wrong with the equations, as if it lay in the direction that is amplified most.
        distance = math.sqrt(noise * self.weight.numel()) / float(sizes.min()) if checked else math.inf
        return Certificate(
            unknowns=unknowns,
            rank=unknowns,
            condition=float(sizes.max() / sizes.min()),
            residual=residual,
            psnr=least_psnr(distance, unknowns),
            reach="everywhere",
        )

    def _noise(
        self, largest: float, scale: Tensor, energy: float, spare: Tensor, limits: TokenLimits
    ) -> tuple[float, float]:
        """The variances of one equation and of one error.

        An equation has the noise of the weight's gradient, and that of the errors times the `energy` of what they
        multiply.
        """
        least = (limits.rounding * largest) ** 2 * limits.variance
        if self.error_sigma > 0 or self.weight_sigma > 0:
            weight = self.weight_sigma**2 / float(scale.square().mean())
            return weight + energy * self.error_sigma**2 + least, self.error_sigma**2
        if len(spare) < limits.fewest_spare:
            return least, 0.0
        missed = float(spare.square().mean())
        # As if both gradients had the same noise.
        return missed + least, missed / (1.0 / float(scale.square().mean()) + energy)


@dataclass(frozen=True, kw_only=True)
class Solution:
    """The picture (C, H, W), by how much it misses the equations, relatively, and how many directions they settle.

    `certificate` says what that means for the picture.
    """

    picture: Tensor
    residual: float
    determined: int
    certificate: Certificate


def _without_noise(squares: Tensor, matrix: Tensor, noise: float) -> Tensor:
    """Squared singular values of the best estimate of what `matrix` is without noise of variance `noise`.

    `squares` are its own.
    Shrunk so that the expected squared error is least (Gavish and Donoho 2017, arXiv:1405.7511); 0 where noise alone
    has values as large.
    """
    if noise == 0.0:
        return squares
    rows, columns = matrix.shape
    inner = squares / noise - rows - columns
    above = (inner > 0) & (inner.square() > 4 * rows * columns)
    root = (inner.square() - 4 * rows * columns).clamp_min(0.0).sqrt()
    return torch.where(above, noise * root.square() / (squares / noise), 0.0)


def _posterior(
    layout: PatchLayout, right: Tensor, precision: Tensor, said: Tensor, like: Tensor, limits: TokenLimits
) -> Tensor:
    """The mean (T, I), in the coordinates of the rows of `right` (T, T), of what is not the mean image.

    The equations say `precision` (T,) times it is `said` (T, I), up to their noise; the prior weighs against that.
    """
    most = limits.most
    settled = precision > limits.settled * most
    found = torch.where(settled[:, None], said / precision.clamp_min(1e-300)[:, None], 0.0)
    if bool(settled.all()):
        return found
    open_ = ~settled
    rows, kept = right[open_], precision[open_][:, None]

    def prior(of_patches: Tensor) -> Tensor:
        picture = layout.picture_of(of_patches, torch.zeros_like(like))
        return layout.patches_of(limits.prior(picture))

    wanted = said[open_] - rows @ prior(right[settled].mT @ found[settled])
    found[open_] = solve_definite(
        lambda part: kept * part + rows @ prior(rows.mT @ part),
        wanted,
        turns=limits.most_turns,
        converged=limits.converged,
        preconditioner=1.0 / (kept + most),
    )
    return found


def roughness(picture: Tensor) -> Tensor:
    """The gradient of half the sum of squared differences of neighbouring pixels, (C, H, W)."""
    found = torch.zeros_like(picture)
    for axis in (1, 2):
        before = picture.narrow(axis, 0, picture.shape[axis] - 1)
        after = picture.narrow(axis, 1, picture.shape[axis] - 1)
        found.narrow(axis, 1, picture.shape[axis] - 1).add_(after - before)
        found.narrow(axis, 0, picture.shape[axis] - 1).sub_(after - before)
    return found
