"""Batches of pictures and the gradient that the server sees of them."""

from __future__ import annotations

import torch
from torch import Tensor

from fl_core.base.rng import generator
from fl_core.federation.client import loss_gradient
from fl_core.models.build import build_model, initial_state
from fl_core.models.config import ModelConfig
from fl_core.threat.observation import Observation


def batch_of(count: int, config: ModelConfig) -> tuple[Observation, Tensor, Tensor]:
    """Smooth random pictures of random classes, and the gradient of their mean loss."""
    draw = generator("pictures")
    coarse = torch.randn((count, 3, 4, 4), generator=draw)
    images = torch.nn.functional.interpolate(coarse, 8, mode="bilinear").clamp(-1.0, 1.0)
    labels = torch.randint(config.outputs, (count,), generator=draw)
    state = initial_state(config, generator("model"))
    observation = Observation(
        signal="gradients",
        model=config,
        state=state,
        tensors=loss_gradient(build_model(config), state, (images, labels)),
        examples=count,
        clients=1,
        batch_size=count,
        steps=1,
        lr=0.1,
        momentum=0.0,
    )
    return observation, images, labels
