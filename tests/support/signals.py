"""A small network, images, and what a client with them sends: for tests of the library and of audits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from orchestrator.library.images import ImageSpec

SPEC = ImageSpec(channels=3, height=8, width=8)
CLASSES = 4


def network(seed: int = 0) -> nn.Sequential:
    """Fully connected, 192 to 96 to 48 to the classes."""
    with torch.random.fork_rng():
        torch.random.manual_seed(seed)
        return nn.Sequential(
            nn.Flatten(), nn.Linear(192, 96), nn.ReLU(), nn.Linear(96, 48), nn.ReLU(), nn.Linear(48, CLASSES)
        )


def pictures(count: int, seed: int = 0) -> Tensor:
    """Smooth images (N, 3, 8, 8) with pixels in [0, 1]."""
    coarse = torch.rand(count, 3, 3, 3, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(coarse, size=(8, 8), mode="bicubic", align_corners=True).clamp(0, 1)


def labels(count: int) -> Tensor:
    """Classes in turn."""
    return torch.arange(count) % CLASSES


def gradient(model: nn.Module, images: Tensor, classes: Tensor) -> dict[str, Tensor]:
    """The gradient of the mean cross-entropy, by plain autograd."""
    loss = nn.functional.cross_entropy(model(images), classes)
    return dict(
        zip(dict(model.named_parameters()), torch.autograd.grad(loss, list(model.parameters())), strict=True)
    )


def psnr(found: Tensor, truth: Tensor) -> float:
    """In dB with range 1, over all images in their order."""
    return float(-10 * (found - truth).square().mean().log10())
