"""Small victims of the analytic attack."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fl_core.base.rng import generator
from fl_core.base.types import Truth
from fl_core.data.dataset import ImageDataset
from fl_core.federation.client import LocalTraining
from fl_core.federation.rounds import FederationConfig
from fl_core.models.build import initial_state
from fl_core.models.config import ModelConfig
from fl_core.threat.captures import Victim, capture
from fl_core.threat.model import ThreatModel
from fl_core.threat.observation import Observation, observe
from tests.support.federations import make_federation
from tests.support.local_training import CNN


def observed(
    faces: ImageDataset,
    model: ModelConfig = CNN,
    *,
    signal: str = "gradients",
    batch: int = 1,
    images: int = 6,
    client: int = 0,
    **local: Any,
) -> tuple[Observation, Truth]:
    """One of four clients with so many images each."""
    training = LocalTraining(batch_size=batch, **local)
    config = FederationConfig(clients=4, fraction=0.5, rounds=3, local=training)
    federation = make_federation(faces, model=model, train=4 * images, config=config)
    record, truth = capture(
        federation,
        initial_state(model, generator("model", 0)),
        signal=signal,  # type: ignore[arg-type]
        round_number=0,
        victim=Victim(client=client),
    )
    return observe(record, ThreatModel(), public_mean=public_mean(faces)), truth


def public_mean(faces: ImageDataset) -> Tensor:
    """Of faces that no client has."""
    others = faces.split("valid", 12)
    images, _ = faces.batch(others, [False] * len(others))
    return images.mean(0)
