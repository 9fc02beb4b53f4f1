"""Small federations on the CPU."""

from __future__ import annotations

import torch

from fl_core.data.dataset import ImageDataset
from fl_core.federation.client import LocalTraining
from fl_core.federation.federation import Federation
from fl_core.federation.rounds import FederationConfig
from fl_core.models.config import ModelConfig

MODELS = [
    ModelConfig(kind="cnn64", image_size=16),
    ModelConfig(kind="lenet", image_size=16),
    ModelConfig(kind="mlp", image_size=16),
    ModelConfig(kind="resnet18", image_size=32),
    ModelConfig(kind="resnet18", image_size=32, batch_norm="train"),
]


def make_federation(
    dataset: ImageDataset,
    *,
    model: ModelConfig | None = None,
    train: int = 24,
    seed: int = 3,
    config: FederationConfig | None = None,
) -> Federation:
    """A small federation on the CPU."""
    return Federation(
        config=config
        or FederationConfig(clients=4, fraction=0.5, rounds=3, local=LocalTraining(batch_size=2)),
        model=model or ModelConfig(kind="mlp", image_size=dataset.shape.height),
        dataset=dataset,
        train=dataset.split("train", train),
        seed=seed,
        device=torch.device("cpu"),
    )
