"""The settings of the matching loop, and what follows from them alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from attack_core.base.types import Attack
from attack_core.gradients.comparison.layers import LayerMode
from attack_core.gradients.objectives import L2, Objective
from attack_core.local_sgd.simulation import Averaged, LocalModel
from attack_core.matching.candidates import EarlyStop, Parametrisation, RestartHalving
from attack_core.matching.schedules import OptimizerName, Schedule, Sign, rate_factor, warmup
from attack_core.priors.priors import GroupConsistency, Prior
from attack_core.signal.choices import Init, LabelStrategy
from fl_core.base.types import LATER, InUnits, require

MOST = 10_000_000
"""More iterations, restarts or images than this are a slip of the keyboard, and would fill any memory."""

Preset = Literal["default", "soft", "tight", "none"]

PRESETS: dict[Preset, tuple[float, float | None]] = {
    "default": (1e-3, 2.0),
    "soft": (3e-4, 3.0),
    "tight": (1e-2, 1.5),
    "none": (0.0, None),
}
"""TV weight and clamp of each preset."""


@dataclass(frozen=True, kw_only=True)
class MatchingSettings(Attack):
    """The settings of `attack_core.matching.matching.Matching`, which says what they mean."""

    kind: Literal["matching"] = "matching"
    iterations: Annotated[int, InUnits("iterations")] = 2000
    restarts: Annotated[int, InUnits("restarts")] = 1
    packing: Annotated[int | None, InUnits("restarts")] = None
    optimizer: OptimizerName = "adam"
    lr: float | tuple[float, ...] = 0.1
    schedule: Schedule = "none"
    sign: Sign = "none"
    objective: Objective = field(default_factory=L2)
    tv_weight: float | tuple[float, ...] = 1e-3
    priors: tuple[Prior, ...] = ()
    anneal_tv: bool = True
    clamp: Annotated[float | None, InUnits("normalised")] = 2.0
    preset: Preset | None = None
    early_stop: EarlyStop | None = None
    halving: RestartHalving | None = field(default=None, metadata=LATER)
    parametrisation: Parametrisation = "pixels"
    init: Init = "normal"
    init_std: Annotated[float, InUnits("normalised")] = 0.1
    layers: tuple[int, ...] | None = None
    layer_names: tuple[str, ...] | None = None
    layer_weights: LayerMode | tuple[float, ...] = "uniform"
    labels: LabelStrategy = "auto"
    images: Annotated[int | None, InUnits("images")] = None
    feature_weight: float = 0.0
    statistics_weight: float = field(default=0.0, metadata=LATER)
    local: LocalModel = field(default_factory=Averaged)

    def __post_init__(self) -> None:
        for name in ("iterations", "restarts"):
            require(1 <= getattr(self, name) <= MOST, self, name, f"from 1 to {MOST:,}")
        require(self.packing is None or self.packing >= 1, self, "packing", "at least 1, or null for all")
        require(self.clamp is None or self.clamp > 0, self, "clamp", "more than 0, or null for none")
        require(self.init_std > 0, self, "init_std", "more than 0")
        require(self.feature_weight >= 0, self, "feature_weight", "at least 0")
        require(self.statistics_weight >= 0, self, "statistics_weight", "at least 0")
        require(self.images is None or 1 <= self.images <= MOST, self, "images", f"from 1 to {MOST:,}")
        require(all(rate > 0 for rate in self.each(self.lr)), self, "lr", "more than 0")
        require(all(weight >= 0 for weight in self.each(self.tv_weight)), self, "tv_weight", "at least 0")
        for name, value in (("lr", self.lr), ("tv_weight", self.tv_weight)):
            length_fits = not isinstance(value, tuple) or len(value) == self.restarts
            require(length_fits, self, name, f"one number, or one for each of {self.restarts} restarts")
        signs = self.sign == "none" or self.optimizer != "lbfgs"
        require(signs, self, "sign", "'none' with the optimizer 'lbfgs', which needs the gradient itself")
        starts = self.parametrisation == "pixels" or self.init == "normal"
        require(starts, self, "init", "'normal', which is the default: a deep prior starts at random weights")
        several = self.halving is None or self.halving.kept(self.restarts) < self.restarts
        require(several, self, "halving", "null, or beside so many restarts that some of them end")
        if any(isinstance(prior, GroupConsistency) for prior in self.priors):
            require(
                self.restarts > 1, self, "restarts", "at least 2 with the prior 'group', which compares them"
            )
            require(
                self.halving is None, self, "halving", "null with the prior 'group', which compares restarts"
            )
            still = self.optimizer != "lbfgs"
            require(still, self, "optimizer", "a first-order one with the prior 'group', whose centre moves")

    @property
    def together(self) -> int:
        """See `Attack.together`."""
        return self.restarts if self.packing is None else min(self.packing, self.restarts)

    @property
    def annealed(self) -> bool:
        """Whether the priors' weights fall with the learning rate."""
        return self.schedule == "cosine" and self.anneal_tv

    def prior_factor(self, iteration: int) -> float:
        """What the priors' weights are multiplied by at `iteration`."""
        if not self.annealed or iteration < warmup(self.iterations):
            return 1.0
        return rate_factor(self.schedule, iteration, self.iterations)

    def each(self, value: float | tuple[float, ...]) -> tuple[float, ...]:
        """A number for each restart, where `value` may be one for all."""
        return value if isinstance(value, tuple) else (value,) * self.restarts
