"""Training of the patch mixture: expectation maximisation on random patches of public images."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attack_core.priors.patch_mixture import PatchMixture
from attack_core.priors.training import PatchTraining
from fl_core.base.errors import InputError


@dataclass(frozen=True, kw_only=True)
class TrainingLimits:
    """What keeps the mixture definite, and where it starts."""

    floor: float = 1e-4
    """Variance that is added to every number of a patch: the square of about one step of 8 bits. Not measured."""
    together: int = 2000
    """How many patches are evaluated at once."""


TRAINING_LIMITS = TrainingLimits()
"""The limits in force."""


def train_patches(
    images: Tensor,
    settings: PatchTraining,
    generator: torch.Generator,
    limits: TrainingLimits = TRAINING_LIMITS,
) -> PatchMixture:
    """The mixture that images (N, C, H, W) in [-1, 1] teach; the same images and generator give the same one.

    Raises `InputError` for images that are smaller than a patch.
    """
    if min(images.shape[-2:]) < settings.patch:
        size = " x ".join(map(str, images.shape[-2:]))
        raise InputError(
            f"prior.patch = {settings.patch}: images of {size} pixels are smaller; take a smaller patch."
        )
    patches = random_patches(images, settings.patch, settings.patches, generator)
    mixture, inside, outside = _first(patches, images.shape[1], settings, generator, limits)
    for _ in range(settings.passes):
        mixture = _improved(mixture, inside, outside, limits)
    return mixture


def random_patches(images: Tensor, size: int, count: int, generator: torch.Generator) -> Tensor:
    """So many patches (count, C * size^2) at random places of random images, half of them mirrored left to right."""
    number, channels, height, width = images.shape
    which = torch.randint(number, (count,), generator=generator)
    down = torch.randint(height - size + 1, (count,), generator=generator)
    across = torch.randint(width - size + 1, (count,), generator=generator)
    mirrored = torch.rand(count, generator=generator) < 0.5
    steps = torch.arange(size)
    rows = down[:, None] + steps
    columns = across[:, None] + torch.where(mirrored[:, None], steps.flip(0), steps)
    found = images[which[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return found.permute(0, 3, 1, 2).reshape(count, channels * size * size)


def _first(
    patches: Tensor,
    channels: int,
    settings: PatchTraining,
    generator: torch.Generator,
    limits: TrainingLimits,
) -> tuple[PatchMixture, Tensor, Tensor]:
    """Equal Gaussians of the contrast and the direction of random patches, and all patches' `coordinates`."""
    count, numbers = patches.shape
    levels = patches.unflatten(1, (channels, -1))
    contrast = (levels - levels.mean(2, keepdim=True)).flatten(1)
    _, directions = torch.linalg.eigh(contrast.T @ contrast / count)
    kept = min(settings.directions, numbers - channels)
    mixture = PatchMixture(
        basis=directions.flip(1)[:, :kept].mT.contiguous(),
        log_weights=torch.zeros(1),
        covariances=torch.eye(kept)[None],
        rest=torch.ones(1),
        size=settings.patch,
    )
    inside, outside = mixture.coordinates(patches)
    chosen = torch.randperm(count, generator=generator)[: settings.components]
    common = inside.T @ inside
    others = max(mixture.numbers - kept, 1)
    axes = inside[chosen]
    energy = axes.square().sum(1) + outside[chosen]
    whole = inside.square().sum() + outside.sum()
    covariances = energy[:, None, None] * common / whole + axes[:, :, None] * axes[:, None, :]
    mixture = replace(
        mixture,
        log_weights=torch.full((len(chosen),), -math.log(len(chosen))),
        covariances=covariances + limits.floor * torch.eye(kept),
        rest=energy * outside.sum() / (whole * others) + limits.floor,
    )
    return mixture, inside, outside


def _improved(mixture: PatchMixture, inside: Tensor, outside: Tensor, limits: TrainingLimits) -> PatchMixture:
    """One pass: each patch's share in each Gaussian, and the Gaussians of these shares.

    `inside` (M, R) and `outside` (M,) are the patches' `coordinates`.
    """
    parts = zip(inside.split(limits.together), outside.split(limits.together), strict=True)
    shares = torch.cat([mixture.log_joint(*part).softmax(1) for part in parts])
    # A Gaussian that no patch chooses hardly counts from then on.
    weights = shares.sum(0).clamp_min(1e-6)
    covariances = torch.empty_like(mixture.covariances)
    kept = inside.shape[1]
    for number in range(len(weights)):
        shared = inside * shares[:, number, None].sqrt()
        covariances[number] = shared.T @ shared / weights[number] + limits.floor * torch.eye(kept)
    return replace(
        mixture,
        log_weights=(weights / weights.sum()).log(),
        covariances=covariances,
        rest=shares.T @ outside / (weights * max(mixture.numbers - kept, 1)) + limits.floor,
    )
