"""Differential privacy for single examples: every local step clips each example's gradient and adds noise."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from defenses.dp.budget import DPMechanism
from defenses.dp.per_example import check_per_example, clipped_sum
from defenses.mechanism.base import Mechanism, Privacy, Stage, Unit
from defenses.mechanism.draws import draw_noise
from fl_core.base.decibels import decibels, energy
from fl_core.base.errors import InputError
from fl_core.base.rng import Random
from fl_core.base.types import ClientUpdate, ModelState
from fl_core.federation.client import Batch, GradientRule, batch_gradient
from fl_core.federation.rounds import FederationConfig
from fl_core.models.build import build_model
from fl_core.models.config import ModelConfig
from fl_core.threat.facts import ExampleClip, Fact, StepNoise


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
        check_per_example(build_model(model))
        return model

    def on_gradient(self, rule: GradientRule, random: Random, plan: FederationConfig) -> GradientRule:
        """See `Mechanism.on_gradient`; raises `InputError` for a `rule` that is not the plain one."""
        if rule is not batch_gradient:
            raise InputError(
                f"{self.kind} takes the gradient of each example's cross-entropy; it does not go with a defense "
                "that changes how a gradient is taken."
            )
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


@dataclass(kw_only=True)
class PrivateGradient:
    """A client's rule for one round: a `GradientRule` and a `Recording`.

    `noise` is what the noise so far adds to the update, in units of a gradient: momentum carries each step's through
    all later ones. What the noise does to later steps' gradients counts as signal.
    """

    max_norm: float
    sigma: float
    size: int
    momentum: float
    random: Random
    factors: list[Tensor] = field(default_factory=list)
    velocity: dict[str, Tensor] = field(default_factory=dict)
    noise: dict[str, Tensor] = field(default_factory=dict)

    def __call__(self, model: nn.Module, state: ModelState, batch: Batch) -> dict[str, Tensor]:
        """The noisy mean of the batch's clipped gradients."""
        check_per_example(model)
        total, factors = clipped_sum(model, state, batch, self.max_norm)
        drawn = draw_noise(total, "gaussian", self.sigma, self.random)
        self._note(factors, drawn)
        return {name: value / self.size + drawn[name] for name, value in total.items()}

    def noted(self, update: ClientUpdate, *, unit: float) -> ClientUpdate:
        """See `Recording.noted`."""
        noise = sum(unit**2 * energy(value) for value in self.noise.values())
        signal = sum(energy(value - unit * self.noise[name]) for name, value in update.tensors.items())
        factors = torch.cat(self.factors)
        return dataclasses.replace(
            update,
            clip_factor=float(factors.mean()),
            not_finite=int((factors == 0).sum()),
            noise_to_signal_db=decibels(noise, signal),
        )

    def _note(self, factors: Tensor, drawn: dict[str, Tensor]) -> None:
        self.factors.append(factors)
        if not self.noise:
            self.velocity, self.noise = drawn, {name: value.clone() for name, value in drawn.items()}
            return
        for name, value in drawn.items():
            self.velocity[name] = self.momentum * self.velocity[name] + value
            self.noise[name] += self.velocity[name]
