"""PRECODE: a bottleneck with a new random draw in every forward pass (Scheliga et al., WACV 2022, arXiv:2108.04725)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from defenses.mechanism.base import Mechanism, Stage
from fl_core.base.errors import InputError
from fl_core.base.types import InUnits, ModelState, require
from fl_core.federation.client import Batch, GradientRule, batch_gradient, gradient_of
from fl_core.federation.rounds import FederationConfig
from fl_core.models.config import ModelConfig
from fl_core.models.forward import predict
from fl_core.threat.facts import Fact, RandomCode

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fl_core.base.rng import Random


@dataclass(frozen=True, kw_only=True)
class Precode(Mechanism):
    """Put a variational bottleneck of `size` numbers in front of the network's last layer.

    In training each image's code is drawn anew in each forward pass, and `beta` times the code's divergence from the
    standard normal distribution, the mean over the batch, is added to the loss. Predictions take the code's mean.
    """

    stage: ClassVar[Stage] = "model"
    kind: Literal["precode"] = "precode"
    size: Annotated[int, InUnits("numbers")] = 256
    beta: float = 1e-3

    def __post_init__(self) -> None:
        require(self.size >= 1, self, "size", "at least 1")
        require(self.beta >= 0, self, "beta", "at least 0")

    def incompatibility(self, chain: tuple[Mechanism, ...]) -> str | None:
        """See `Mechanism.incompatibility`."""
        for other in chain:
            if other.protects == "example":
                return f"it adds a term to the loss, and {other.label} takes gradients of the cross-entropy alone"
        return None

    def on_model(self, model: ModelConfig) -> ModelConfig:
        """See `Mechanism.on_model`; raises `InputError` for a network that has a bottleneck already."""
        require(model.bottleneck is None, model, "bottleneck", f"null with {self.kind}, which sets it")
        return replace(model, bottleneck=self.size)

    def on_gradient(self, rule: GradientRule, random: Random, plan: FederationConfig) -> GradientRule:
        """See `Mechanism.on_gradient`; raises `InputError` for a `rule` that is not the plain one."""
        if rule is not batch_gradient:
            raise InputError(f"{self.kind} changes the loss that gradients are taken of, so it comes first.")

        from torch.nn import functional

        from fl_core.models.bottleneck import (
            divergence,
            draw_code_noise,
            encoded,
            find_bottleneck,
            with_noise,
        )

        def defended(model: nn.Module, state: ModelState, batch: Batch) -> dict[str, Tensor]:
            found = find_bottleneck(model)
            if found is None:
                raise InputError(
                    f"{self.kind} needs the network that it made: ModelConfig.bottleneck is null."
                )
            name, bottleneck = found
            noise = draw_code_noise(bottleneck, len(batch[1]), random, batch[0])
            with encoded(bottleneck) as statistics:
                logits = predict(model, with_noise(state, name, noise), batch[0])
            loss = functional.cross_entropy(logits, batch[1]) + self.beta * divergence(statistics[0]).mean()
            return gradient_of(loss, state.parameters)

        return defended

    def facts(self, plan: FederationConfig) -> tuple[Fact, ...]:
        """See `Mechanism.facts`."""
        return (RandomCode(beta=self.beta),)
