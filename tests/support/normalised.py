"""Clients whose network normalises by the batch, and what is seen of them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from defenses.chain import AnyDefense, Chain
from fl_core.base.rng import generator
from fl_core.base.types import Signal
from fl_core.data.dataset import ImageDataset
from fl_core.federation.client import LocalTraining
from fl_core.federation.federation import Federation
from fl_core.federation.rounds import FederationConfig
from fl_core.models.build import initial_state
from fl_core.models.config import ModelConfig
from fl_core.threat.captures import Victim, accompanied, capture
from fl_core.threat.model import ThreatModel
from fl_core.threat.observation import Observation, observe
from tests.support.federations import make_federation

NORMS = ModelConfig(kind="resnet20", image_size=16, batch_norm="train")
SEES = ThreatModel(sees_statistics=True)


def federation_of(faces: ImageDataset, model: ModelConfig = NORMS, **local: Any) -> Federation:
    training = LocalTraining(**({"batch_size": 2, "lr": 0.05} | local))
    return make_federation(faces, model=model, config=FederationConfig(clients=4, rounds=1, local=training))


def observed(
    faces: ImageDataset,
    *defenses: AnyDefense,
    signal: Signal = "gradients",
    threat: ThreatModel = SEES,
    model: ModelConfig = NORMS,
    **local: Any,
) -> Observation:
    """What is seen of a client's signal at initial weights."""
    federation, chain = federation_of(faces, model, **local), Chain(defenses=defenses)
    plan, found = federation.config, [Victim(client=0)]
    secure = chain.secure_sum(seed=1, plan=plan)
    if secure is not None:
        found = accompanied(federation, signal, found, round_number=0)
    record, _ = capture(
        federation,
        initial_state(model, generator("model", 0)),
        signal=signal,
        round_number=0,
        victim=found[0],
        defense=chain.clients(seed=1, plan=plan),
        facts=chain.facts(plan),
        secure=secure,
        mean=chain.fixed_mean(seed=1, plan=plan),
    )
    return observe(record, threat)


def batches_of(faces: ImageDataset, **local: Any) -> list[tuple[Tensor, Tensor]]:
    federation = federation_of(faces, **local)
    return [federation.load(batch) for batch in federation.local_batches(0, 0)]
