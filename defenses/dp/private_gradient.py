"""A client's rule for the gradient of a batch under DP-SGD: clipped example by example, with noise."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from defenses.dp.per_example import check_per_example, clipped_sum
from defenses.mechanism.draws import draw_noise
from fl_core.base.decibels import decibels, energy
from fl_core.base.rng import Random
from fl_core.base.types import ClientUpdate, ModelState
from fl_core.federation.client import Batch


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
