"""Clients of random images that train locally, and what their server sees."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from fl_core.base.rng import generator
from fl_core.base.types import EarlierUpdate, Tensors
from fl_core.federation.client import LocalTraining, weight_update
from fl_core.models.build import build_model, initial_state
from fl_core.models.config import ModelConfig
from fl_core.threat.model import ThreatModel
from fl_core.threat.observation import Observation, observe
from fl_core.threat.record import RoundRecord

LENET = ModelConfig(kind="lenet", image_size=16)


CNN = ModelConfig(kind="cnn64", image_size=16)


RESNET = ModelConfig(kind="resnet18", image_size=32)


def some_images(config: ModelConfig, count: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    size = config.image_size
    images = torch.rand((count, 3, size, size), generator=generator("images", seed)) * 2 - 1
    return images, torch.arange(count) % config.classes


def trained_client(
    config: ModelConfig = LENET,
    *,
    images: int = 4,
    batch: int = 2,
    epochs: int = 2,
    momentum: float = 0.9,
    persistent: bool = False,
    lr: float = 0.05,
) -> tuple[Observation, Tensor, Tensor]:
    """A client that takes the same batches in every epoch, after a round of one step where momentum persists."""
    model, state = build_model(config), initial_state(config, generator("model", 0))
    data, labels = some_images(config, images)
    local = LocalTraining(lr=lr, momentum=momentum, epochs=epochs, batch_size=batch)
    earlier: tuple[EarlierUpdate, ...] = ()
    velocity: Tensors = {}
    if persistent:
        before = [some_images(config, 3, seed=1)]
        update, velocity = weight_update(model, state, before, local, client=0, examples=3)
        earlier = (EarlierUpdate(round=0, tensors=update.tensors, steps=1),)
    batches = list(zip(data.split(batch), labels.split(batch), strict=True)) * epochs
    update, _ = weight_update(model, state, batches, local, client=0, examples=images, velocity=velocity)
    record = RoundRecord(
        signal="local_update",
        round=1,
        model=config,
        state=state,
        batch_size=batch,
        updates=(update,),
        earlier=earlier,
    )
    return observe(record, ThreatModel(labels="known"), labels=labels), data, one_hot(labels)


def one_hot(labels: Tensor, classes: int = 2) -> Tensor:
    return functional.one_hot(labels, classes).float()
