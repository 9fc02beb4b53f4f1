"""Clipping alone and noise alone, without a differential-privacy statement."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from defenses.mechanism.base import Mechanism, Stage
from defenses.mechanism.clipping import clip
from defenses.mechanism.draws import Distribution, perturb
from fl_core.base.types import ClientUpdate, InUnits, require
from fl_core.federation.rounds import FederationConfig
from fl_core.threat.facts import Clip, Fact, Noise

if TYPE_CHECKING:
    from fl_core.base.rng import Random


@dataclass(frozen=True, kw_only=True)
class ClipOnly(Mechanism):
    """The update scaled to an L2 norm of at most `max_norm`, in units of the released signal. Not private."""

    stage: ClassVar[Stage] = "clip"
    kind: Literal["clip"] = "clip"
    max_norm: Annotated[float, InUnits("signal")] = 1.0

    def __post_init__(self) -> None:
        finite = self.max_norm > 0 and math.isfinite(self.max_norm)
        require(finite, self, "max_norm", "finite and more than 0")

    def on_update(self, update: ClientUpdate, random: Random, plan: FederationConfig) -> ClientUpdate:
        """Clip; see `Mechanism.on_update`."""
        return clip(update, self.max_norm)

    def facts(self, plan: FederationConfig) -> tuple[Fact, ...]:
        """See `Mechanism.facts`."""
        return (Clip(max_norm=self.max_norm),)


@dataclass(frozen=True, kw_only=True)
class NoiseOnly(Mechanism):
    """Independent noise of standard deviation `sigma`, in units of the released signal, on every number.

    Not private: without a bound on the update no noise hides it for certain. After `clip` it is what `dp_update`
    does, at a sigma that is given and not derived.
    """

    stage: ClassVar[Stage] = "noise"
    kind: Literal["noise"] = "noise"
    distribution: Distribution = "gaussian"
    sigma: Annotated[float, InUnits("signal")] = 1e-3

    def __post_init__(self) -> None:
        require(self.sigma > 0 and math.isfinite(self.sigma), self, "sigma", "finite and more than 0")

    def on_update(self, update: ClientUpdate, random: Random, plan: FederationConfig) -> ClientUpdate:
        """Add the noise, drawn on the CPU; see `Mechanism.on_update`."""
        return perturb(update, self.distribution, self.sigma, random)

    def facts(self, plan: FederationConfig) -> tuple[Fact, ...]:
        """See `Mechanism.facts`."""
        return (Noise(distribution=self.distribution, sigma=self.sigma),)
