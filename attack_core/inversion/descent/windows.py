"""The preconditioner of windows: the inverse of what a network makes of a small window, in all windows at once.

Convolutions with pooling pass coarse structure a hundred to ten thousand times more strongly than fine structure, and
of fine structure some patterns more than others. A descent in pixels spends its steps on what is passed strongly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from attack_core.base.probes import Features, sent_back


@dataclass(frozen=True, kw_only=True)
class WindowLimits:
    """The windows, and how the network's gain in them is estimated (docs/decisions, 0118)."""

    stride: int = 2
    """From one window to the next, in pixels."""
    blocks: int = 3
    """A window's side, in strides."""
    probes: int = 8
    """How many times white noise is sent backwards."""
    reach: float = 4.0
    """With k evaluations to come, (reach / k)^2 of the largest gain is added to all.

    Conjugate gradients reach gains down to about 1 / k^2 of the largest. A preconditioner that goes further moves
    everything at first, and little to its end.
    """

    rounding: float = 1e-6
    """Gains below this share of the largest are rounding of float32, and count as this share."""

    @property
    def side(self) -> int:
        """Of a window, in pixels."""
        return self.stride * self.blocks

    def enough(self, size: Sequence[int]) -> bool:
        """Whether images of `size` (C, H, W) hold more windows than a window has numbers."""
        channels, *sides = size
        inside = math.prod((max(side - self.side, -1) // self.stride + 1) for side in sides)
        return inside > channels * self.side**2


WINDOW_LIMITS = WindowLimits()
"""The limits in force."""


@dataclass(frozen=True)
class WindowPreconditioner:
    """An inverse of J^T J in each of many windows, added up: additive Schwarz (Toselli and Widlund 2005, section 1.5).

    J is the network's Jacobian. One matrix stands for all windows, because convolutions do the same everywhere. So the
    sum is a convolution of blocks of `stride` x `stride` pixels: `kernel` (Q, Q, K, K), Q numbers a block.
    """

    kernel: Tensor
    stride: int

    @classmethod
    def measured(
        cls,
        features: Features,
        image: Tensor,
        evaluations: int,
        *,
        generator: torch.Generator,
        limits: WindowLimits = WINDOW_LIMITS,
    ) -> WindowPreconditioner:
        """From the gain at `image` (1, C, H, W), for a descent of so many evaluations.

        White noise sent backwards has the covariance J^T J. Where no pixel moves a feature, as where all units are off,
        and where one moves them without bounds, all is taken to be passed equally.
        """
        numbers = image.shape[1] * limits.side**2
        square = torch.zeros((numbers, numbers), device=image.device)
        for back in sent_back(features, image, limits.probes, generator):
            # Inside the image alone: windows that reach over its border are of another kind.
            (seen,) = functional.unfold(back, limits.side, stride=limits.stride)
            square += seen @ seen.mT
        square = square.cpu()  # MPS has no eigenvalues.
        if not (bool(square.isfinite().all()) and bool(square.any())):
            square = torch.eye(numbers)
        gains, turn = torch.linalg.eigh(square)
        lifted = (gains / gains[-1]).clamp_min(limits.rounding) + (limits.reach / evaluations) ** 2
        found = cls.of((turn / lifted) @ turn.mT, limits)
        return replace(found, kernel=found.kernel.to(image.device))

    @classmethod
    def of(cls, matrix: Tensor, limits: WindowLimits = WINDOW_LIMITS) -> WindowPreconditioner:
        """With this `matrix` (N, N) in each window, whose numbers are in the order of (C, H, W)."""
        stride, blocks = limits.stride, limits.blocks
        places = torch.arange(len(matrix)).view(-1, blocks, stride, blocks, stride)
        order = places.permute(1, 3, 0, 2, 4).flatten()
        numbers, side = len(matrix) // blocks**2, 2 * blocks - 1
        parts = matrix[order][:, order].view(blocks**2, numbers, blocks**2, numbers).permute(1, 3, 0, 2)
        at = torch.arange(blocks**2)
        down, right = (each[None, :] - each[:, None] + blocks - 1 for each in (at // blocks, at % blocks))
        kernel = matrix.new_zeros((numbers, numbers, side**2))
        kernel.index_add_(2, (down * side + right).flatten(), parts.flatten(2))
        return cls(kernel.view(numbers, numbers, side, side), stride)

    def turned(self, gradient: Tensor) -> Tensor:
        """See `Metric`."""
        height, width = gradient.shape[-2:]
        padded = functional.pad(gradient, (0, -width % self.stride, 0, -height % self.stride))
        blocks = functional.pixel_unshuffle(padded, self.stride)
        found = functional.conv2d(blocks, self.kernel, padding=self.kernel.shape[-1] // 2)
        return functional.pixel_shuffle(found, self.stride)[..., :height, :width]
