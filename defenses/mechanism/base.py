"""What a defense is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from fl_core.base.types import ClientUpdate, Config
from fl_core.federation.aggregation import Reduction
from fl_core.federation.client import Batch, GradientRule
from fl_core.federation.rounds import FederationConfig
from fl_core.models.config import ModelConfig
from fl_core.threat.facts import Fact

if TYPE_CHECKING:
    from fl_core.base.rng import Random

Unit = Literal["client", "example"]
Adversary = Literal["server", "public"]


@dataclass(frozen=True, kw_only=True)
class Privacy:
    """A differential-privacy statement.

    `epsilon` is the total over `rounds` releases, `epsilon_release` that of one, both at `delta`. `unit` says
    whose data is protected and `adjacency` against which change: `zero_out` replaces the unit's contribution
    by zeros (sensitivity C), `replace_one` by another (2C). `against` is whom it protects from: the `server`, and then
    everybody else too, or the `public`, who see the global models alone. `sampling_rate` is 1 where no amplification
    by sampling is claimed.
    """

    epsilon: float
    epsilon_release: float
    delta: float
    unit: Unit
    adjacency: Literal["zero_out", "replace_one"]
    against: Adversary
    rounds: int
    sampling_rate: float = 1.0


Stage = Literal["model", "batch", "gradient", "clip", "noise", "compress", "sum"]
"""Where in a client's round a defense works, in this order: the network, what it is fed, how its gradient is taken, the
bound on the update, noise on it, what of it is sent, and how the updates of several clients are added."""

STAGES: tuple[Stage, ...] = get_args(Stage)


class Mechanism(Config):
    """Base of every defense: its hooks change nothing, it tells nothing and promises nothing.

    A defense object is its own config. `plan` is the federation that it works in, planned rounds and all; `random` is
    the one stream that a client draws from in a round. `stage` says where in a chain it belongs.
    """

    kind: str
    stage: ClassVar[Stage]
    protects: ClassVar[Unit | None] = None
    """Whose data its privacy statement is about; None where it makes none."""
    is_per_example: ClassVar[bool] = False
    """Of a defense that changes what a client trains on: whether each image is still made of one of its own alone, so
    that bounding each one's gradient bounds what one of the client's images does."""

    @property
    def label(self) -> str:
        """What tables and messages call it."""
        return self.kind

    def check_library(self) -> None:
        """Raise `InputError` where the library that does its work is not installed."""

    @property
    def has_error_feedback(self) -> bool:
        """Whether what it takes away from an update is added to the client's next one."""
        return False

    def incompatibility(self, chain: tuple[Mechanism, ...]) -> str | None:
        """Why it can't work in this chain, which it is part of; None where it can."""
        return None

    def on_model(self, model: ModelConfig) -> ModelConfig:
        """The network that the federation trains instead of `model`."""
        return model

    def on_batch(self, batch: Batch, random: Random, plan: FederationConfig, classes: int) -> Batch:
        """What a client trains on instead of `batch`, whose labels are one of so many classes."""
        return batch

    def on_gradient(self, rule: GradientRule, random: Random, plan: FederationConfig) -> GradientRule:
        """How a client computes a batch's gradient, in terms of `rule`."""
        return rule

    def on_update(self, update: ClientUpdate, random: Random, plan: FederationConfig) -> ClientUpdate:
        """The update that is released instead of `update`."""
        return update

    def on_sum(self, reduction: Reduction[Any], *, seed: int, plan: FederationConfig) -> Reduction[Any]:
        """How released updates become the round's change, in terms of `reduction`; `seed` is that of the run."""
        return reduction

    def check_shares(self, *, absent: int, colluders: int, opens_single: bool) -> None:
        """Raise `InputError` for a setting in which a promise that clients make together would not hold.

        `absent` of the planned participants send nothing, `colluders` others tell the attacker what they sent;
        `opens_single` says that the attacker holds the key to single updates.
        """

    def facts(self, plan: FederationConfig) -> tuple[Fact, ...]:
        """What an attacker who knows the defense knows."""
        return ()

    def privacy(self, plan: FederationConfig) -> Privacy | None:
        """The privacy statement over the planned rounds, or None where none can be made."""
        return None
