"""Differential privacy on the update: clip, then add Gaussian noise, at the client."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

import torch
from dp_accounting import get_epsilon_gaussian, get_sigma_gaussian
from torch import Tensor

from defenses.base import Mechanism, Privacy, Stage
from defenses.draws import add_noise
from fl_core.server import FederationConfig
from fl_core.threat import Clip, Fact, Noise
from fl_core.types import ClientUpdate, require


@dataclass(frozen=True, kw_only=True)
class DPUpdate(Mechanism):
    """Local differential privacy for a client's whole update (the unit is the client).

    The update is scaled to an L2 norm of at most `max_norm` over all its tensors, in units of the released
    signal, and every number gets Gaussian noise. Sigma is the exact one of the Gaussian mechanism (Balle and
    Wang, ICML 2018, from dp-accounting) for `epsilon` and `delta`: of each release with `budget: release`, or
    of all planned rounds together with `budget: total`, whose T releases compose to one of noise sigma /
    sqrt(T). No amplification by sampling is claimed, since the server knows who took part. Buffers are not
    released.
    """

    stage: ClassVar[Stage] = "noise"
    kind: Literal["dp_update"] = "dp_update"
    epsilon: float = 8.0
    delta: float = 1e-5
    max_norm: float = 1.0
    budget: Literal["release", "total"] = "total"
    adjacency: Literal["zero_out", "replace_one"] = "zero_out"

    def __post_init__(self) -> None:
        require(self.epsilon > 0 and math.isfinite(self.epsilon), self, "epsilon", "finite and more than 0")
        require(0 < self.delta < 1, self, "delta", "in (0, 1)")
        require(
            self.max_norm > 0 and math.isfinite(self.max_norm), self, "max_norm", "finite and more than 0"
        )

    def sigma(self, plan: FederationConfig) -> float:
        """The noise's standard deviation, in units of the released signal."""
        releases = plan.rounds if self.budget == "total" else 1
        sensitivity = self.max_norm * (2.0 if self.adjacency == "replace_one" else 1.0)
        return _unit_sigma(self.epsilon, self.delta) * math.sqrt(releases) * sensitivity

    def on_update(
        self, update: ClientUpdate, random: torch.Generator, plan: FederationConfig
    ) -> ClientUpdate:
        """Clip and noise; see `Mechanism.on_update`."""
        clipped, factor = clip(update.tensors, self.max_norm)
        noisy = add_gaussian(clipped, self.sigma(plan), random)
        still = {name: torch.zeros_like(value) for name, value in update.buffers.items()}
        return dataclasses.replace(update, tensors=noisy, buffers=still, clip_factor=factor)

    def facts(self, plan: FederationConfig) -> tuple[Fact, ...]:
        """See `Mechanism.facts`."""
        return (Clip(max_norm=self.max_norm), Noise(distribution="gaussian", sigma=self.sigma(plan)))

    def privacy(self, plan: FederationConfig) -> Privacy:
        """See `Mechanism.privacy`."""
        if self.budget == "total":
            total, release = self.epsilon, _composed(self.epsilon, self.delta, 1.0 / plan.rounds)
        else:
            total, release = _composed(self.epsilon, self.delta, float(plan.rounds)), self.epsilon
        return Privacy(
            epsilon=total,
            epsilon_release=release,
            delta=self.delta,
            unit="client",
            adjacency=self.adjacency,
            rounds=plan.rounds,
        )


def clip(tensors: Mapping[str, Tensor], max_norm: float) -> tuple[dict[str, Tensor], float]:
    """Tensors scaled together to an L2 norm of at most `max_norm`, and the factor in (0, 1] that did it."""
    norm = math.sqrt(sum(float(tensor.square().sum()) for tensor in tensors.values()))
    factor = min(1.0, max_norm / norm) if norm > 0 else 1.0
    return {name: tensor * factor for name, tensor in tensors.items()}, factor


def add_gaussian(
    tensors: Mapping[str, Tensor], sigma: float, generator: torch.Generator
) -> dict[str, Tensor]:
    """Tensors plus independent Gaussian noise; see `add_noise`."""
    return add_noise(tensors, "gaussian", sigma, generator)


@lru_cache(maxsize=256)
def _unit_sigma(epsilon: float, delta: float) -> float:
    return float(get_sigma_gaussian(epsilon, delta))


@lru_cache(maxsize=256)
def _composed(epsilon: float, delta: float, releases: float) -> float:
    """Epsilon of `releases` (or a fraction of one) Gaussian releases that are (epsilon, delta)-DP each."""
    if releases == 1.0:
        return epsilon
    return float(get_epsilon_gaussian(_unit_sigma(epsilon, delta) / math.sqrt(releases), delta))
