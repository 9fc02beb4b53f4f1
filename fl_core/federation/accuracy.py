"""How many images a network classifies right."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fl_core.base.types import ModelState
from fl_core.data.dataset import ImageDataset
from fl_core.models.build import build_model
from fl_core.models.config import ModelConfig
from fl_core.models.forward import predict

EVALUATION_BATCH = 64
"""Images that are classified together; their number changes rounding."""


@torch.no_grad()
def count_correct(
    model: ModelConfig,
    state: ModelState,
    dataset: ImageDataset,
    indices: Sequence[int],
    *,
    device: torch.device,
    batch_size: int = EVALUATION_BATCH,
) -> int:
    """How many of the images at `indices` are classified right, BatchNorm in eval mode, on `device`."""
    network, state = build_model(model).eval(), state.to(device)
    correct = 0
    for start in range(0, len(indices), batch_size):
        images, labels = dataset.batch(indices[start : start + batch_size])
        logits = predict(network, state, images.to(device))
        correct += int((logits.argmax(dim=1) == labels.to(device)).sum())
    return correct
