"""Differential privacy on the update: clip, then add Gaussian noise, at the client."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch

from defenses.dp.budget import Budgeted
from defenses.mechanism.base import Privacy, Stage, Unit
from defenses.mechanism.draws import perturb
from fl_core.base.decibels import energy, scaled
from fl_core.base.rng import Random
from fl_core.base.types import ClientUpdate
from fl_core.federation.rounds import FederationConfig
from fl_core.threat.observe import Clip, Fact, Noise


@dataclass(frozen=True, kw_only=True)
class DPUpdate(Budgeted):
    """Local differential privacy for a client's whole update (the unit is the client).

    The update is scaled to an L2 norm of at most `max_norm` over all its tensors, in units of the released
    signal, and every number gets Gaussian noise, as much as the budget needs (`defenses.dp.budget`). A client makes one
    release a round. No amplification by sampling is claimed, since the server knows who took part. Buffers are not
    released.
    """

    stage: ClassVar[Stage] = "noise"
    protects: ClassVar[Unit | None] = "client"
    kind: Literal["dp_update"] = "dp_update"

    def sigma(self, plan: FederationConfig) -> float:
        """The noise's standard deviation, in units of the released signal."""
        return self.multiplier(rounds=plan.rounds) * self.sensitivity

    def on_update(self, update: ClientUpdate, random: Random, plan: FederationConfig) -> ClientUpdate:
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
    still = {name: torch.zeros_like(value) for name, value in update.buffers.items()}
    return replace(clip(update, max_norm), buffers=still)


def clip(update: ClientUpdate, max_norm: float) -> ClientUpdate:
    """The update scaled to an L2 norm of at most `max_norm` over all its tensors, and the factor in [0, 1] noted.

    No factor bounds NaN or infinity. An update that holds one becomes zeros, which are within any bound, and counts as
    `not_finite`.
    """
    norm = math.sqrt(sum(map(energy, update.tensors.values())))
    if not math.isfinite(norm):
        zeros = {name: torch.zeros_like(value) for name, value in update.tensors.items()}
        return replace(update, tensors=zeros, clip_factor=0.0, not_finite=update.not_finite + 1)
    factor = min(1.0, max_norm / norm) if norm > 0 else 1.0
    clipped = {name: scaled(value, factor) for name, value in update.tensors.items()}
    before = 1.0 if update.clip_factor is None else update.clip_factor
    return replace(update, tensors=clipped, clip_factor=factor * before)
