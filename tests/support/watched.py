"""One client's images in several rounds under noise, as a server sees them that watches."""

from __future__ import annotations

from dataclasses import replace

import torch

from defenses.chain import Chain
from defenses.mechanism.noise import NoiseOnly
from fl_core.base.rng import generator
from fl_core.base.types import ModelState, Truth
from fl_core.data.dataset import ImageDataset
from fl_core.federation.client import LocalTraining
from fl_core.federation.rounds import FederationConfig
from fl_core.models.build import initial_state
from fl_core.models.config import ModelConfig
from fl_core.threat.captures import Victim, watch
from fl_core.threat.model import ThreatModel
from fl_core.threat.observation import Observation, observe
from fl_core.threat.record import RoundRecord
from tests.support.defended import federation_of, public_mean


def states(model: ModelConfig, rounds: int) -> list[ModelState]:
    """Initial weights, and weights that move by a hundredth of others in each round."""
    found = [initial_state(model, generator("model", 3))]
    for number in range(1, rounds):
        other = initial_state(model, generator("other", number)).parameters
        moved = {name: value + 0.01 * other[name] for name, value in found[-1].parameters.items()}
        found.append(replace(found[-1], parameters=moved))
    return found


def recorded(
    faces: ImageDataset, kind: str, *, rounds: int, sigma: float | None
) -> tuple[RoundRecord, Truth]:
    """One victim's gradients of one image in so many rounds, with noise of `sigma` on every number (None: without)."""
    model = ModelConfig(kind=kind, image_size=faces.shape.height)  # type: ignore[arg-type]
    plan = FederationConfig(clients=4, fraction=0.5, rounds=rounds, local=LocalTraining(batch_size=1))
    chain = Chain(defenses=() if sigma is None else (NoiseOnly(sigma=sigma),))
    return watch(
        federation_of(faces, plan, model, 40),
        states(model, rounds),
        signal="gradients",
        round_number=0,
        victim=Victim(client=0),
        defense=chain.clients(seed=1, plan=plan),
        facts=chain.facts(plan),
    )


def norm_of(faces: ImageDataset, kind: str) -> float:
    """The L2 norm of the victim's gradient in the first round of `recorded`."""
    record, _ = recorded(faces, kind, rounds=1, sigma=None)
    return float(torch.cat([value.flatten() for value in record.updates[0].tensors.values()]).norm())


def watched(
    faces: ImageDataset, kind: str = "mlp", *, rounds: int, sigma: float | None
) -> tuple[Observation, Truth]:
    """What the server sees of `recorded`."""
    record, truth = recorded(faces, kind, rounds=rounds, sigma=sigma)
    return observe(record, ThreatModel(), labels=truth.labels, public_mean=public_mean(faces)), truth
