"""Matching through a variational information bottleneck (VIB): its noise is a part of what is reconstructed.

A client with PRECODE takes the gradient at a latent code that nobody else knows. But its decoder's gradients give the
latent code of one image exactly, its encoder's the features that it was drawn for, and so the noise itself: matching is
then the same as without noise. For several images each draw is optimised together with the images. Taking the noise as
fixed or sampled is how Balunovic et al. (ICLR 2022, arXiv:2111.04706) attack it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from attack_core.fc.inversion import input_estimate
from attack_core.fc.spear import Inseparable
from attack_core.gradients.handles import GradientHandle, gradient_handles
from attack_core.gradients.tracing import Known, LossOf
from attack_core.signal.signal_model import knows_errors, sent_numbers
from fl_core.base.types import ModelState, Tensors
from fl_core.models.bottleneck import Bottleneck, code_of, divergence, encoded
from fl_core.threat.facts import RandomCode
from fl_core.threat.observation import Observation


@dataclass(frozen=True, kw_only=True)
class VibNoiseLimits:
    """When a draw that was read off a gradient is believed, and what keeps an optimised one plausible."""

    largest: float = 6.0
    """No entry of a standard normal draw is as large: one in 5e8 is. Beyond, what was read off is no draw."""
    density: float = 1e-4
    """The weight of a draw's negative log-density beside a relative matching loss. Not measured."""


VIB_NOISE_LIMITS = VibNoiseLimits()
"""The limits in force."""


@dataclass(frozen=True)
class ThroughVib:
    """The mean gradient at fixed weights of a network with a `bottleneck`, `name`d so in it; a `LocalProblem`.

    `noise` (B, size) are the draws where they are known, else there is one of that size for each candidate in `free`.
    """

    model: nn.Module
    state: ModelState
    targets: dict[str, Tensor]
    name: str
    bottleneck: Bottleneck
    fact: RandomCode
    noise: Tensor | None
    free: Sequence[Tensor]
    copies: int = 1
    point: None = None
    """Draws decide the gradients too."""
    known: Known = field(default_factory=Known)

    @classmethod
    def of(
        cls,
        observation: Observation,
        model: nn.Module,
        targets: dict[str, Tensor],
        named: tuple[str, Bottleneck],
        fact: RandomCode,
        *,
        restarts: int,
        images: int,
    ) -> ThroughVib:
        """The problem for so many candidates of so many images each."""
        name, bottleneck = named
        noise = solved_noise(observation, targets, name)
        device = next(iter(targets.values())).device
        shape = (images, bottleneck.decoder.in_features)
        free = [torch.zeros(shape, device=device, requires_grad=True) for _ in range(restarts)]
        return cls(
            model, observation.state, targets, name, bottleneck, fact, noise, free if noise is None else ()
        )

    def leaves(self, candidate: int) -> list[Tensor]:
        """See `LocalProblem`."""
        return [self.free[candidate]] if self.free else []

    def handles(self, images: Tensor, labels: Tensor, which: list[int]) -> dict[str, GradientHandle]:
        """See `LocalProblem`."""
        known = self.noise
        noise = self._drawn(which).flatten(0, 1) if known is None else known.repeat(len(which), 1)
        with encoded(self.bottleneck) as statistics:
            loss = self._loss(labels, statistics)
            rows = {f"{self.name}.noise": noise}
            return gradient_handles(self.model, self.state, images, loss, rows=rows, known=self.known)

    def tie(self, images: Tensor, which: list[int]) -> Tensor:
        """See `LocalProblem`: half the square of what was drawn, which is its negative log-density."""
        if self.noise is not None:
            return images.new_zeros(len(images))
        halves: Tensor = 0.5 * self._drawn(which).square().flatten(1).mean(1)
        return VIB_NOISE_LIMITS.density * halves

    def _drawn(self, which: list[int]) -> Tensor:
        return torch.stack([self.free[candidate] for candidate in which])

    def _loss(self, labels: Tensor, statistics: Sequence[Tensor]) -> LossOf:
        def loss(logits: Tensor) -> Tensor:
            entropy = -(labels * logits.log_softmax(dim=-1)).sum(-1)
            # Passes of some images may come before; those that the logits are from are the last.
            drawn_for = torch.cat(list(statistics))[-entropy.numel() :]
            spread = divergence(drawn_for).unflatten(0, entropy.shape)
            scaled: Tensor = (entropy + self.fact.beta * spread).mean(1)
            return scaled

        return loss


def solved_noise(
    observation: Observation, gradients: Tensors, name: str, limits: VibNoiseLimits = VIB_NOISE_LIMITS
) -> Tensor | None:
    """What the bottleneck `name` drew (1, size) for a single image in a single step; None where it can't be read off.

    Every layer's gradients give its own input: those of the decoder the code, those of the encoder the features.
    """
    own = [f"{name}.{layer}.{kind}" for layer in ("encoder", "decoder") for kind in ("weight", "bias")]
    single = observation.examples == observation.steps == 1
    if not single or knows_errors(observation) or sent_numbers(observation).keys() & set(own):
        return None
    try:
        features, code = (
            input_estimate(gradients[w], gradients[b], "weighted") for w, b in (own[:2], own[2:])
        )
    except Inseparable:
        return None
    weight, bias = (observation.state.parameters[each] for each in own[:2])
    mean, deviation = code_of(functional.linear(features.unsqueeze(0), weight, bias))
    noise = (code - mean) / deviation
    largest = float(noise.abs().max())
    return noise if math.isfinite(largest) and largest < limits.largest else None
