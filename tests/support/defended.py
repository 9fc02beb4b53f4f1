"""Tiny victims under a chain of defenses, as an attacker sees them who is told of it or not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from attack_core.attacks.registry import AnyAttack
from attack_core.metrics.metrics import assign, psnr
from defenses.chain import AnyDefense, Chain
from fl_core.base.rng import generator
from fl_core.base.types import Signal, Truth
from fl_core.data.dataset import ImageDataset
from fl_core.federation.client import LocalTraining
from fl_core.federation.federation import Federation
from fl_core.federation.rounds import FederationConfig
from fl_core.models.build import build_model, initial_state
from fl_core.models.config import ModelConfig
from fl_core.threat.captures import Victim, capture
from fl_core.threat.model import ThreatModel
from fl_core.threat.observation import Observation, observe

CNN = ModelConfig(kind="cnn64", image_size=16)


def public_mean(faces: ImageDataset) -> torch.Tensor:
    """The mean public image (3, S, S)."""
    return torch.stack([faces.image(i) for i in faces.split("test")]).mean(0)


def seen(
    faces: ImageDataset,
    *defenses: AnyDefense,
    told: bool = True,
    labels: bool = False,
    model: ModelConfig = CNN,
    signal: Signal = "gradients",
    batch: int = 1,
    victim: int = 0,
    clients: int = 4,
    train: int = 40,
    **local: Any,
) -> tuple[Observation, Truth]:
    """One client's signal at initial weights, and the truth behind it; `local` are settings of its training."""
    training = LocalTraining(batch_size=batch, **{"lr": 0.05} | local)
    plan = FederationConfig(clients=clients, fraction=0.5, rounds=1, local=training)
    chain = Chain(defenses=defenses)
    model = chain.on_model(replace(model, image_size=faces.shape.height))
    record, truth = capture(
        federation_of(faces, plan, model, train),
        initial_state(model, generator("model", 3)),
        signal=signal,
        round_number=0,
        victim=Victim(client=victim),
        defense=chain.clients(seed=1, plan=plan),
        facts=chain.facts(plan),
    )
    threat = ThreatModel(knows_defense=told, labels="known" if labels else "unknown")
    known = truth.example_labels()
    return observe(record, threat, labels=known, public_mean=public_mean(faces)), truth


def federation_of(faces: ImageDataset, plan: FederationConfig, model: ModelConfig, train: int) -> Federation:
    """A federation on so many training images, on the CPU."""
    return Federation(
        config=plan,
        model=model,
        dataset=faces,
        train=faces.split("train", train),
        seed=3,
        device=torch.device("cpu"),
    )


def quality(images: torch.Tensor, truth: Truth) -> float:
    """Mean PSNR of the true images by assignment, in dB."""
    chosen = assign(images, truth.images)
    found = [
        float(psnr(images[j : j + 1], truth.images[i : i + 1])) for i, j in enumerate(chosen) if j is not None
    ]
    return sum(found) / len(found)


def attacked(observation: Observation, truth: Truth, attack: AnyAttack, *, seed: int = 0) -> float:
    """The quality of the attack's answer."""
    found = attack(observation, build_model(observation.model), generator("attack", seed))
    return quality(found.images, truth)


def of_mean(observation: Observation, truth: Truth) -> float:
    """The quality of the mean public image as an answer."""
    assert observation.public_mean is not None
    return quality(observation.public_mean.expand(len(truth.images), -1, -1, -1), truth)
