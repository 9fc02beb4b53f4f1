"""White noise sent backwards through a network: what it leaves at the pixels has the covariance J^T J."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

Features = Callable[[Tensor], Tensor]
"""From images (B, C, H, W) to a layer's inputs (B, I)."""


def sent_back(
    features: Features, images: Tensor, probes: int, generator: torch.Generator
) -> Iterator[Tensor]:
    """Of so many draws of noise at the `features` of `images`, what each is at the pixels, (B, C, H, W)."""
    point = images.detach().clone().requires_grad_(True)
    found = features(point)
    for _ in range(probes):
        noise = torch.randn(found.shape, generator=generator).to(found)
        # As a product: given as the outer gradient, noise makes the library load a package for symbols.
        (back,) = torch.autograd.grad((found * noise).sum(), point, retain_graph=True)
        yield back
