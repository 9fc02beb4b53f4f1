"""Client-level differential privacy under distributed noise: each client adds a share of the sum's noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from defenses.dp.budget import DPMechanism
from defenses.dp.central import unbounded
from defenses.mechanism.base import Mechanism, Privacy, Stage, Unit
from defenses.mechanism.clipping import bounded
from defenses.mechanism.draws import perturb
from defenses.secure.protection import SumProtection
from fl_core.base.errors import InputError
from fl_core.base.types import ClientUpdate, InUnits, require
from fl_core.federation.rounds import FederationConfig
from fl_core.threat.facts import Clip, Fact, Noise

if TYPE_CHECKING:
    from fl_core.base.rng import Random


@dataclass(frozen=True, kw_only=True)
class DPDistributed(DPMechanism):
    """Shares of noise that add up under a secure sum (Dwork et al., EUROCRYPT 2006); the unit is the client.

    Each client scales its update to an L2 norm of at most `max_norm` and adds Gaussian noise, so little that only the
    sum of a round's has what the budget needs. So it protects from a server that sees the sum alone, and is refused
    without a secure sum. `missing` of the planned participants may drop out, or give their share away as colluders,
    without the promise failing: the others' shares are larger by that much.

    No amplification is claimed, since the server knows who took part.
    """

    stage: ClassVar[Stage] = "noise"
    protects: ClassVar[Unit | None] = "client"
    kind: Literal["dp_distributed"] = "dp_distributed"
    missing: Annotated[int, InUnits("clients")] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.missing >= 0, self, "missing", "at least 0")

    def incompatibility(self, chain: tuple[Mechanism, ...]) -> str | None:
        """See `Mechanism.incompatibility`."""
        sums = [other for other in chain if isinstance(other, SumProtection)]
        if not sums:
            return (
                "each client's noise is a share of what the promise needs, and only a sum has it all; "
                "add 'masking', 'ckks' or 'paillier', or take 'dp_update'"
            )
        if any(other.chosen is not None for other in sums):
            return "numbers that go in the clear carry a share of the noise only; encrypt all of them"
        return unbounded(chain)

    def share(self, plan: FederationConfig) -> float:
        """The standard deviation of one client's noise, in units of the released signal.

        Raises `InputError` where no share would be left, and where participants are no fixed number.
        """
        if plan.participation != "fixed":
            raise InputError(
                "federation.participation = 'poisson' does not go with dp_distributed: shares of noise add up to what "
                "the budget needs for a planned number of participants only; use 'fixed'."
            )
        require(self.missing < plan.per_round, self, "missing", f"less than the {plan.per_round} of a round")
        needed = self.multiplier(rounds=plan.rounds) * self.sensitivity
        return needed / math.sqrt(plan.per_round - self.missing)

    def on_update(self, update: ClientUpdate, random: Random, plan: FederationConfig) -> ClientUpdate:
        """Clip and add the share; see `Mechanism.on_update`."""
        return perturb(bounded(update, self.max_norm), "gaussian", self.share(plan), random)

    def facts(self, plan: FederationConfig) -> tuple[Fact, ...]:
        """See `Mechanism.facts`."""
        return (Clip(max_norm=self.max_norm), Noise(distribution="gaussian", sigma=self.share(plan)))

    def privacy(self, plan: FederationConfig) -> Privacy:
        """See `Mechanism.privacy`."""
        return self.statement(against="server", rounds=plan.rounds)

    def check_shares(self, *, absent: int, colluders: int, opens_single: bool) -> None:
        """See `Mechanism.check_shares`."""
        if opens_single:
            raise InputError(
                "threat.view = 'key_holder' breaks the promise of dp_distributed: a single update carries a share of "
                "the noise only; take 'dp_update', or another view."
            )
        require(
            absent + colluders <= self.missing,
            self,
            "missing",
            f"at least {absent + colluders}: {absent} of a round's participants add no noise "
            f"and {colluders} collude with the server",
        )
