"""Where a descent on a batch's tokens starts, and for which batches one is tried."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TokenBatchLimits:
    """Where a descent on a batch starts, and for how many images one is tried."""

    std: float = 0.3
    """The standard deviation of the noise around the mean image that it starts from. Not measured against others: at
    the mean image itself tokens are short, and LayerNorm makes of them anything."""
    most_images: int = 8
    """Larger batches go to matching. Not measured above."""
    least_equations: float = 0.9
    """Numbers that the sum of errors has at a token, for each number of the B patches there, below which matching runs.

    `vit` has 2 of two images and 1 of four. A narrow transformer with 0.3 of two images had 1.6 dB more than grey.
    """


TOKEN_BATCH_LIMITS = TokenBatchLimits()
"""The limits in force."""
