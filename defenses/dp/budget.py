"""What every differentially private mechanism is set by: a budget, a bound, and which data sets are neighbours."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from defenses.dp.accounting import epsilon_spent, noise_multiplier
from defenses.mechanism.base import Adversary, Mechanism, Privacy
from fl_core.base.errors import InputError
from fl_core.base.types import InUnits, require


@dataclass(frozen=True, kw_only=True)
class DPMechanism(Mechanism):
    """Base of the mechanisms that bound a contribution to the L2 norm `max_norm` and add Gaussian noise.

    `epsilon` at `delta` is the budget of all planned rounds together with `budget: total`, and of what one round
    releases with `budget: release`. `noise_multiplier` takes its place with `epsilon: null`: each release has noise of
    that standard deviation over the sensitivity, and the budget is what this spends. `adjacency` says which data sets
    are neighbours: with `zero_out` the unit's contribution is replaced by zeros (sensitivity `max_norm`), with
    `replace_one` by another's (twice that).
    """

    epsilon: float | None = 8.0
    noise_multiplier: float | None = None
    delta: float = 1e-5
    max_norm: Annotated[float, InUnits("signal")] = 1.0
    budget: Literal["release", "total"] = "total"
    adjacency: Literal["zero_out", "replace_one"] = "zero_out"

    def __post_init__(self) -> None:
        for name in ("epsilon", "noise_multiplier"):
            value = getattr(self, name)
            require(value is None or 0 < value < math.inf, self, name, "finite and more than 0")
        if self.noise_multiplier is None:
            require(self.epsilon is not None, self, "epsilon", "a number, or noise_multiplier has to be one")
        else:
            require(
                self.epsilon is None, self, "epsilon", "null beside noise_multiplier, which sets the budget"
            )
        require(0 < self.delta < 1, self, "delta", "in (0, 1)")
        require(
            self.max_norm > 0 and math.isfinite(self.max_norm), self, "max_norm", "finite and more than 0"
        )

    @property
    def sensitivity(self) -> float:
        """How far a neighbour can move the bounded sum, as an L2 norm."""
        return self.max_norm * (2.0 if self.adjacency == "replace_one" else 1.0)

    def multiplier(self, *, rounds: int, per_round: int = 1, rate: float = 1.0) -> float:
        """Standard deviation over sensitivity that each of `per_round` releases a round needs.

        `rate` is that of Poisson sampling which the adversary does not see; 1 claims nothing.
        """
        if self.epsilon is None:
            return self._given
        releases = per_round * (rounds if self.budget == "total" else 1)
        return noise_multiplier(self.epsilon, self.delta, releases=releases, rate=rate)

    def statement(self, *, against: Adversary, rounds: int, per_round: int = 1, rate: float = 1.0) -> Privacy:
        """The privacy statement for that noise."""
        if self.protects is None:
            raise InputError(f"{type(self).__name__} protects no unit, so it makes no statement.")
        total, release = self._epsilons(rounds, per_round, rate)
        return Privacy(
            epsilon=total,
            epsilon_release=release,
            delta=self.delta,
            unit=self.protects,
            adjacency=self.adjacency,
            against=against,
            rounds=rounds,
            sampling_rate=rate,
        )

    @property
    def _given(self) -> float:
        """The noise multiplier of a mechanism that is set by it."""
        if self.noise_multiplier is None:
            raise InputError(f"{type(self).__name__} has neither epsilon nor noise_multiplier.")
        return self.noise_multiplier

    def _epsilons(self, rounds: int, per_round: int, rate: float) -> tuple[float, float]:
        """What all planned rounds spend, and what one does."""

        def spent(times: int) -> float:
            noise = self.multiplier(rounds=rounds, per_round=per_round, rate=rate)
            return epsilon_spent(noise, self.delta, releases=per_round * times, rate=rate)

        if self.epsilon is None:
            return spent(rounds), spent(1)
        if rounds == 1:
            return self.epsilon, self.epsilon
        return (self.epsilon, spent(1)) if self.budget == "total" else (spent(rounds), self.epsilon)
