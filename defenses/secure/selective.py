"""Selective encryption: the most sensitive numbers go through a secure sum, the rest in the clear.

The idea of FedML-HE (Jin et al., 2023): where encryption is too dear for a whole update, encrypt the part that
gives the images away. What stays in the clear is part of what the server sees.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch import Tensor, nn

from defenses.secure.packing import Layout
from fl_core.base.errors import InputError
from fl_core.base.types import Config, InUnits, ModelState, Tensors, require
from fl_core.federation.client import Batch, loss_gradient
from fl_core.federation.common import Common


@dataclass(frozen=True, kw_only=True)
class Selective(Config):
    """Encrypt the most sensitive `fraction` of a model's parameters, and all buffers; send the rest in the clear.

    What is sensitive all parties work out before a round, each for itself, from the round's weights and the first
    `images` public images, so that the choice tells nothing of a client.
    """

    fraction: Annotated[float, InUnits("share")]
    images: Annotated[int, InUnits("images")] = 8

    def __post_init__(self) -> None:
        require(0 < self.fraction <= 1, self, "fraction", "in (0, 1], the share of parameters to encrypt")
        require(self.images >= 1, self, "images", "at least 1 public image to tell what is sensitive")

    def count(self, parameters: int) -> int:
        """How many of so many parameters are encrypted."""
        return math.ceil(self.fraction * parameters)

    def masks(self, common: Common) -> dict[str, Tensor]:
        """What is encrypted (True) in a round, by parameter name, on the CPU; raises as `Common.public` does."""
        found = sensitivity(common.model, common.state, *common.public(self.images))
        return most_sensitive(found, self.fraction)


def sensitivity(
    model: nn.Module, state: ModelState, images: Tensor, labels: Tensor, *, per_batch: int = 1
) -> dict[str, Tensor]:
    """How much each parameter's gradient moves with the data: its mean magnitude over batches of public images.

    `images` (N, 3, S, S) and `labels` (N,) are public, so that the map tells nothing of a client.
    """
    if len(images) == 0:
        raise InputError("The sensitivity map needs public images: at least one.")
    batches: list[Batch] = list(zip(images.split(per_batch), labels.split(per_batch), strict=True))
    total = {name: torch.zeros_like(value) for name, value in state.parameters.items()}
    for batch in batches:
        for name, gradient in loss_gradient(model, state.with_own_buffers(), batch).items():
            total[name] += gradient.abs()
    return {name: value / len(batches) for name, value in total.items()}


def most_sensitive(sensitivities: Tensors, fraction: float) -> dict[str, Tensor]:
    """A mask that is True for the `fraction` of all numbers with the largest sensitivity, rounded up.

    Ties go to the numbers that come first. Raises `InputError` for a fraction outside [0, 1].
    """
    if not 0 <= fraction <= 1:
        raise InputError(f"Fraction {fraction} of parameters to encrypt: must be in [0, 1].")
    layout = Layout.of(sensitivities)
    flat = layout.flatten(sensitivities)
    chosen = np.zeros(layout.size)
    chosen[np.argsort(-flat, kind="stable")[: math.ceil(fraction * layout.size)]] = 1
    return {name: value > 0 for name, value in layout.restore(chosen).items()}
