"""Differential privacy on the update: clip, then add Gaussian noise, at the client."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from defenses.base import Privacy, Stage, Unit
from defenses.budget import Budgeted
from defenses.draws import perturb
from fl_core.server import FederationConfig
from fl_core.threat import Clip, Fact, Noise
from fl_core.types import ClientUpdate


@dataclass(frozen=True, kw_only=True)
class DPUpdate(Budgeted):
    """Local differential privacy for a client's whole update (the unit is the client).

    The update is scaled to an L2 norm of at most `max_norm` over all its tensors, in units of the released
    signal, and every number gets Gaussian noise, as much as the budget needs (`defenses.budget`). A client makes one
    release a round. No amplification by sampling is claimed, since the server knows who took part. Buffers are not
    released.
    """

    stage: ClassVar[Stage] = "noise"
    protects: ClassVar[Unit | None] = "client"
    kind: Literal["dp_update"] = "dp_update"

    def sigma(self, plan: FederationConfig) -> float:
        """The noise's standard deviation, in units of the released signal."""
        return self.multiplier(rounds=plan.rounds) * self.sensitivity

    def on_update(
        self, update: ClientUpdate, random: torch.Generator, plan: FederationConfig
    ) -> ClientUpdate:
        """Clip and noise; see `Mechanism.on_update`."""
        return perturb(bounded(update, self.max_norm), "gaussian", self.sigma(plan), random)

    def facts(self, plan: FederationConfig) -> tuple[Fact, ...]:
        """See `Mechanism.facts`."""
        return (Clip(max_norm=self.max_norm), Noise(distribution="gaussian", sigma=self.sigma(plan)))

    def privacy(self, plan: FederationConfig) -> Privacy:
        """See `Mechanism.privacy`."""
        return self.statement(against="server", rounds=plan.rounds)


def bounded(update: ClientUpdate, max_norm: float) -> ClientUpdate:
    """The update clipped as a whole, with nothing of its buffers."""
    clipped, factor = clip(update.tensors, max_norm)
    still = {name: torch.zeros_like(value) for name, value in update.buffers.items()}
    return dataclasses.replace(update, tensors=clipped, buffers=still, clip_factor=factor)


def clip(tensors: Mapping[str, Tensor], max_norm: float) -> tuple[dict[str, Tensor], float]:
    """Tensors scaled together to an L2 norm of at most `max_norm`, and the factor in (0, 1] that did it."""
    norm = math.sqrt(sum(float(tensor.square().sum()) for tensor in tensors.values()))
    factor = min(1.0, max_norm / norm) if norm > 0 else 1.0
    return {name: tensor * factor for name, tensor in tensors.items()}, factor
