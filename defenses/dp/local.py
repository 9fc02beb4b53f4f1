"""Differential privacy on the update: clip, then add Gaussian noise, at the client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from defenses.dp.budget import DPMechanism
from defenses.mechanism.base import Privacy, Stage, Unit
from defenses.mechanism.clipping import bounded
from defenses.mechanism.draws import perturb
from fl_core.base.types import ClientUpdate
from fl_core.federation.rounds import FederationConfig
from fl_core.threat.facts import Clip, Fact, Noise

if TYPE_CHECKING:
    from fl_core.base.rng import Random


@dataclass(frozen=True, kw_only=True)
class DPUpdate(DPMechanism):
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
