"""The inputs of several layers of one image at once, each counted by its relative distance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attack_core.fc.head import Prefix
from fl_core.base.decibels import TINY
from fl_core.base.types import ModelState


@dataclass(frozen=True)
class JointInputs:
    """What several layers see of an image: `seen` gives images' inputs (B, I), `target` is what is known.

    Of one image `target` is (1, I), of a batch (B, I). Each layer's part is divided by its target's norm and by the
    root of their number, so that the whole target's norm is 1.
    """

    prefix: Prefix
    scales: Tensor
    target: Tensor

    @classmethod
    def of(
        cls, model: nn.Module, state: ModelState, layers: Sequence[str], values: Sequence[Tensor]
    ) -> JointInputs:
        """Of `layers` with known inputs `values` (B, ...)."""
        flat = [value.flatten(1) for value in values]
        scales = [
            torch.full_like(value[:1], len(flat) ** 0.5 * max(float(torch.linalg.vector_norm(value)), TINY))
            for value in flat
        ]
        whole = torch.cat(scales, 1)
        return cls(Prefix(model, state, *layers), whole, torch.cat(flat, 1) / whole)

    def seen(self, images: Tensor) -> Tensor:
        """The layers' inputs (B, I) for `images` (B, 3, S, S), in the target's units."""
        return self.prefix(images) / self.scales

    def missed_each(self, images: Tensor, which: Sequence[int]) -> Tensor:
        """Of the batch's images `which` (A,), each one's relative squared distance (A,): images (A, 3, S, S)."""
        targets = self.target[list(which)]
        return (self.seen(images) - targets).square().sum(1) / targets.square().sum(1)

    def mismatch(self, images: Tensor) -> Tensor:
        """The mean over layers of the relative squared distance, summed over images (B, 3, S, S), ()."""
        return (self.seen(images) - self.target).square().sum()
