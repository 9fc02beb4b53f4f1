"""What an image is expected to look like, as a penalty."""

from __future__ import annotations

from torch import Tensor


def total_variation(images: Tensor) -> Tensor:
    """Anisotropic total variation: the sum of absolute differences of neighbours; (C, B, 3, H, W) to (C,)."""
    vertical = (images[..., 1:, :] - images[..., :-1, :]).abs().flatten(1).sum(1)
    horizontal = (images[..., :, 1:] - images[..., :, :-1]).abs().flatten(1).sum(1)
    return vertical + horizontal
