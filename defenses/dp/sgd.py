"""Differential privacy for single examples: every local step clips each example's gradient and adds noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from defenses.dp.budget import DPMechanism
from defenses.mechanism.base import Mechanism, Privacy, Stage, Unit
from fl_core.base.errors import InputError
from fl_core.federation.client import GradientRule, batch_gradient
from fl_core.federation.rounds import FederationConfig
from fl_core.models.config import ModelConfig
from fl_core.threat.facts import ExampleClip, Fact, StepNoise

if TYPE_CHECKING:
    from fl_core.base.rng import Random


@dataclass(frozen=True, kw_only=True)
class DPSGD(DPMechanism):
    """DP-SGD at the client (Abadi et al., CCS 2016); the unit is the example.

    At each local step every example's gradient is scaled to an L2 norm of at most `max_norm`, the sum gets Gaussian
    noise, and both are divided by the batch size as planned, whatever the last batch holds. An epoch goes through the
    client's images once, in batches that share none, so an example is in one step of an epoch: that step is counted,
    for every epoch of every planned round. No amplification by sampling is claimed, since batches are no Poisson
    samples and the server knows who took part.
    """

    stage: ClassVar[Stage] = "gradient"
    protects: ClassVar[Unit | None] = "example"
    kind: Literal["dp_sgd"] = "dp_sgd"

    def incompatibility(self, chain: tuple[Mechanism, ...]) -> str | None:
        """See `Mechanism.incompatibility`."""
        for other in chain:
            if other.stage == "noise":
                return f"it adds noise, and so does {other.label}: their privacy statements would not add up"
            if other.stage == "batch" and not other.is_per_example:
                return f"it bounds what one image of a batch does, but under {other.label} an example can be in several"
        return None

    def on_model(self, model: ModelConfig) -> ModelConfig:
        """See `Mechanism.on_model`; raises `InputError` for BatchNorm in train mode."""
        from defenses.dp.per_example import check_per_example
        from fl_core.models.build import build_model

        check_per_example(build_model(model))
        return model

    def on_gradient(self, rule: GradientRule, random: Random, plan: FederationConfig) -> GradientRule:
        """See `Mechanism.on_gradient`; raises `InputError` for a `rule` that is not the plain one."""
        if rule is not batch_gradient:
            raise InputError(
                f"{self.kind} takes the gradient of each example's cross-entropy; it does not go with a defense "
                "that changes how a gradient is taken."
            )

        from defenses.dp.private_gradient import PrivateGradient

        return PrivateGradient(
            max_norm=self.max_norm,
            sigma=self.sigma(plan),
            size=plan.local.batch_size,
            momentum=plan.local.momentum,
            random=random,
        )

    def sigma(self, plan: FederationConfig) -> float:
        """The standard deviation of the noise on each number of a step's gradient."""
        noise = self.multiplier(rounds=plan.rounds, per_round=participations(plan))
        return noise * self.sensitivity / plan.local.batch_size

    def facts(self, plan: FederationConfig) -> tuple[Fact, ...]:
        """See `Mechanism.facts`."""
        return (ExampleClip(max_norm=self.max_norm), StepNoise(sigma=self.sigma(plan)))

    def privacy(self, plan: FederationConfig) -> Privacy:
        """See `Mechanism.privacy`."""
        return self.statement(against="server", rounds=plan.rounds, per_round=participations(plan))


def participations(plan: FederationConfig) -> int:
    """In how many local steps of a round an example can be: one an epoch, as far as `max_steps` lets a client get."""
    return min(plan.local.epochs, plan.local.max_steps or plan.local.epochs)
