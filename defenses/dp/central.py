"""Client-level differential privacy under central noise: clients clip, the server adds noise to the sum."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from defenses.dp.budget import DPMechanism
from defenses.mechanism.base import Mechanism, Privacy, Stage, Unit
from defenses.mechanism.clipping import bounded
from defenses.mechanism.draws import add_noise
from fl_core.base.rng import stream
from fl_core.base.types import ClientUpdate
from fl_core.federation.aggregation import Change, FixedMean, Reduction
from fl_core.federation.rounds import FederationConfig
from fl_core.threat.facts import Clip, Fact, MeanNoise

if TYPE_CHECKING:
    from fl_core.base.rng import Random


@dataclass(frozen=True, kw_only=True)
class DPCentral(DPMechanism):
    """DP-FedAvg (McMahan et al., ICLR 2018); the unit is the client.

    Each client scales its update to an L2 norm of at most `max_norm` and nothing else. The server, which is trusted
    with it, adds Gaussian noise to the sum and divides by the planned number of participants. It protects clients from
    the public, who see the global models, and never from the server. Buffers are not released.

    Where clients take part by Poisson sampling that the public does not see (`federation.participation: poisson`), the
    sampling amplifies, with `adjacency: zero_out`. For `replace_one` no amplification is claimed: a pair of samples
    that hold one client or the other is not the pair that the accountant composes.
    """

    stage: ClassVar[Stage] = "noise"
    protects: ClassVar[Unit | None] = "client"
    kind: Literal["dp_central"] = "dp_central"

    def incompatibility(self, chain: tuple[Mechanism, ...]) -> str | None:
        """See `Mechanism.incompatibility`."""
        if any(other.stage == "sum" for other in chain):
            return (
                "the server that adds the noise has to hold the sum; under a secure sum take 'dp_distributed'"
            )
        return unbounded(chain)

    def rate(self, plan: FederationConfig) -> float:
        """The rate of the sampling that amplifies; 1 where none does."""
        sampled = plan.participation == "poisson" and self.adjacency == "zero_out"
        return plan.fraction if sampled else 1.0

    def sigma(self, plan: FederationConfig) -> float:
        """The standard deviation of the noise on each number of the mean."""
        return self.multiplier(rounds=plan.rounds, rate=self.rate(plan)) * self.sensitivity / plan.planned

    def on_update(self, update: ClientUpdate, random: Random, plan: FederationConfig) -> ClientUpdate:
        """Clip; see `Mechanism.on_update`."""
        return bounded(update, self.max_norm)

    def on_sum(self, reduction: Reduction[Any], *, seed: int, plan: FederationConfig) -> NoisyMean:
        """See `Mechanism.on_sum`."""
        if not isinstance(reduction, FixedMean):
            raise TypeError(
                f"Central noise goes on a mean of equal weights, not on {type(reduction).__name__}."
            )
        return NoisyMean(planned=reduction.planned, sigma=self.sigma(plan), seed=seed)

    def facts(self, plan: FederationConfig) -> tuple[Fact, ...]:
        """See `Mechanism.facts`; who sees no noise is not told of any (`fl_core.threat.observation.observe`)."""
        return (Clip(max_norm=self.max_norm), MeanNoise(sigma=self.sigma(plan)))

    def privacy(self, plan: FederationConfig) -> Privacy:
        """See `Mechanism.privacy`."""
        return self.statement(against="public", rounds=plan.rounds, rate=self.rate(plan))


@dataclass(frozen=True, kw_only=True)
class NoisyMean(FixedMean):
    """A mean with Gaussian noise of standard deviation `sigma` on every number of its tensors, fresh in each round."""

    sigma: float
    seed: int
    round_number: int | None = None

    def prepare(self, round_number: int, examples: Mapping[int, int]) -> NoisyMean:
        """See `Reduction.prepare`."""
        return dataclasses.replace(self, round_number=round_number)

    def published(self, change: Change) -> Change:
        """See `FedAvg.published`; raises `ValueError` for a mean that was not prepared for a round."""
        if self.round_number is None:
            raise ValueError("A noisy mean has to be prepared for a round: its noise is new in each.")
        random = stream("central noise", self.seed, self.round_number)
        noisy = add_noise(change.tensors, "gaussian", self.sigma, random)
        return dataclasses.replace(change, tensors=noisy)


def unbounded(chain: tuple[Mechanism, ...]) -> str | None:
    """Why a chain's uploads do not keep to the norm that clients were clipped to; None where they do."""
    for other in chain:
        if other.stage == "compress":
            return (
                f"what is added up has to keep to max_norm, and {other.label} changes it after it was clipped; "
                "compress without it, or take 'dp_update'"
            )
    return None
