"""How sensitive each number of an update is, from public images, and which numbers are the most so."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from defenses.secure.packing import Layout
from fl_core.base.errors import InputError
from fl_core.base.types import ModelState, Tensors
from fl_core.federation.client import Batch, loss_gradient


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
