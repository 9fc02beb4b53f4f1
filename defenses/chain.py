"""Defenses in sequence: each works on what the one before it released."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from defenses.compression.compression import Prune, Quantise, SignOnly
from defenses.compression.soteria import Soteria
from defenses.dp.accounting import composed_epsilon
from defenses.dp.budget import DPMechanism
from defenses.dp.central import DPCentral
from defenses.dp.distributed import DPDistributed
from defenses.dp.local import DPUpdate
from defenses.dp.sgd import DPSGD
from defenses.he.encryption import CKKS, Paillier
from defenses.inputs.ats import ATS
from defenses.inputs.mixing import InstaHide, MixUp
from defenses.inputs.precode import Precode
from defenses.masking.masking import Masking
from defenses.mechanism.base import STAGES, Privacy, Stage
from defenses.mechanism.noise import ClipOnly, NoiseOnly
from defenses.mechanism.own import OwnDefense
from defenses.secure.protection import SumProtection
from fl_core.base.errors import InputError
from fl_core.base.rng import stream
from fl_core.base.types import ClientUpdate, Protection, Tensors
from fl_core.federation.aggregation import FedAvg, FixedMean, Reduction
from fl_core.federation.client import Batch, GradientRule
from fl_core.federation.rounds import FederationConfig
from fl_core.models.config import ModelConfig
from fl_core.threat.facts import Fact

if TYPE_CHECKING:
    from torch import Tensor

    from defenses.secure.mean import SecureMean
    from fl_core.base.rng import Random

AnyDefense = (
    DPUpdate
    | DPCentral
    | DPDistributed
    | DPSGD
    | ClipOnly
    | NoiseOnly
    | Prune
    | Quantise
    | SignOnly
    | Soteria
    | Precode
    | MixUp
    | InstaHide
    | ATS
    | CKKS
    | Paillier
    | Masking
    | OwnDefense
)
"""Every defense there is: the union is the registry."""

_TWICE: dict[Stage, str] = {
    "model": "one change of the network is allowed",
    "batch": "one change of what a client trains on is allowed",
    "gradient": "one change of how a gradient is taken is allowed",
    "clip": "one bound is enough",
    "noise": "one source of noise is allowed, since privacy statements would not add up",
    "compress": "one compression is allowed, since rounding has no zero for what was withheld",
    "sum": "updates are added once",
}
"""Why a stage can't come twice."""

_LATE: dict[Stage, str] = {
    "model": "the network is fixed before anything is computed with it",
    "batch": "what a client trains on is fixed before its gradient is taken",
    "gradient": "a gradient is taken before anything is done to it",
    "clip": "clipping rescales what was added or rounded by a factor that nobody knows; clip first",
    "noise": "noise makes every number a full one again; add it before compressing",
    "compress": "what was added up is not the client's to compress",
}
"""Why a stage can't come after a later one."""


@dataclass(frozen=True, kw_only=True)
class Chain:
    """Defenses in the order in which they are applied; empty means none.

    Their stages come in the order of `defenses.mechanism.base.STAGES`, each at most once. Raises `InputError` for
    any other order, with the reason.
    """

    defenses: tuple[AnyDefense, ...] = ()

    def __post_init__(self) -> None:
        for before, after in itertools.pairwise(self.defenses):
            reason = _conflict(before, after)
            if reason:
                raise InputError(f"A defense chain has {before.label} before {after.label}: {reason}.")
        for defense in self.defenses:
            reason = defense.incompatibility(self.defenses)
            if reason:
                raise InputError(f"A defense chain has {defense.label}: {reason}.")

    @property
    def is_stateful(self) -> bool:
        """Whether clients keep a residual from round to round."""
        return any(defense.has_error_feedback for defense in self.defenses)

    def on_model(self, model: ModelConfig) -> ModelConfig:
        """The network that the federation trains instead of `model`."""
        for defense in self.defenses:
            model = defense.on_model(model)
        return model

    def facts(self, plan: FederationConfig) -> tuple[Fact, ...]:
        """All defenses' facts in the federation `plan`, in order."""
        return tuple(fact for defense in self.defenses for fact in defense.facts(plan))

    def privacy(self, plan: FederationConfig) -> Privacy | None:
        """The chain's privacy statement: what follows a mechanism is post-processing and keeps it."""
        statements = [defense.privacy(plan) for defense in self.defenses]
        return next((statement for statement in statements if statement is not None), None)

    def epsilon_of(self, plan: FederationConfig, rounds: int) -> float | None:
        """What so many of the planned rounds spend together, of a client that takes part in each.

        None where there is no statement, where it is not about single updates, and of mechanisms that are not ours,
        whose noise may compose in another way.
        """
        statement = self.privacy(plan)
        gaussian = any(isinstance(defense, DPMechanism) for defense in self.defenses)
        if statement is None or statement.against != "server" or not gaussian:
            return None
        if rounds == 1:
            return statement.epsilon_release
        if rounds == statement.rounds:
            return statement.epsilon
        return composed_epsilon(statement.epsilon_release, statement.delta, releases=rounds)

    @property
    def summing(self) -> SumProtection | None:
        """The defense that hides single updates in a sum, where there is one."""
        return next((each for each in self.defenses if isinstance(each, SumProtection)), None)

    @property
    def protection(self) -> Protection | None:
        """What keeps single updates from the server; None where nothing does."""
        return None if self.summing is None else self.summing.protection

    def fixed_mean(self, *, seed: int, plan: FederationConfig) -> FixedMean | None:
        """How the server adds a round's updates where it sees them and does not weight them by examples."""
        reduction = self.reduction(seed=seed, plan=plan)
        return reduction if isinstance(reduction, FixedMean) else None

    def mean(self, plan: FederationConfig) -> FedAvg:
        """The mean of a round's updates, before a defense does anything to it.

        Where clients are promised privacy each has the same weight: weights by examples would tell numbers of images,
        and let the client with most of them move the mean further than the others.
        """
        private = any(defense.protects == "client" for defense in self.defenses)
        return FixedMean(planned=plan.planned) if private else FedAvg()

    def secure_sum(self, *, seed: int, plan: FederationConfig) -> SecureMean | None:
        """How a round's updates are added so that nobody sees one; None where everybody does."""
        reduction = self.reduction(seed=seed, plan=plan)
        from defenses.secure.mean import SecureMean

        return reduction if isinstance(reduction, SecureMean) else None

    def clients(self, *, seed: int, plan: FederationConfig) -> ChainedClients:
        """The chain as clients apply it: fresh randomness for each client and round, fixed by `seed`."""
        return ChainedClients(chain=self, seed=seed, plan=plan)

    def reduction(self, *, seed: int, plan: FederationConfig) -> Reduction[Any]:
        """How released updates become a round's change: the mean, as the chain has changed it.

        How updates are added comes first, since what else is done to a sum is done to that one.
        """
        reduction: Reduction[Any] = self.mean(plan)
        for defense in sorted(self.defenses, key=lambda each: each.stage != "sum"):
            reduction = defense.on_sum(reduction, seed=seed, plan=plan)
        return reduction


@dataclass(frozen=True, kw_only=True)
class ChainedClients:
    """A chain at work in a federation; see `fl_core.federation.hooks.ClientDefense`."""

    chain: Chain
    seed: int
    plan: FederationConfig

    @property
    def is_stateful(self) -> bool:
        """See `ClientDefense.is_stateful`."""
        return self.chain.is_stateful

    def draws(self, client: int, round_number: int) -> Random:
        """See `ClientDefense.draws`."""
        return stream("defense", self.seed, client, round_number)

    def on_batch(self, batch: Batch, random: Random, classes: int) -> Batch:
        """See `ClientDefense.on_batch`."""
        for defense in self.chain.defenses:
            batch = defense.on_batch(batch, random, self.plan, classes)
        return batch

    def on_gradient(self, rule: GradientRule, random: Random) -> GradientRule:
        """See `ClientDefense.on_gradient`."""
        for defense in self.chain.defenses:
            rule = defense.on_gradient(rule, random, self.plan)
        return rule

    def on_update(
        self, update: ClientUpdate, residual: Tensors, random: Random
    ) -> tuple[ClientUpdate, Tensors]:
        """What leaves the client after every defense; the residuals of one are named after its place in the chain."""
        left: dict[str, Tensor] = {}
        for place, defense in enumerate(self.chain.defenses):
            if not defense.has_error_feedback:
                update = defense.on_update(update, random, self.plan)
                continue
            names = {name: f"{place}.{name}" for name in update.tensors}
            owed = {name: value + residual.get(names[name], 0.0) for name, value in update.tensors.items()}
            update = defense.on_update(dataclasses.replace(update, tensors=owed), random, self.plan)
            left |= {names[name]: value - update.tensors[name] for name, value in owed.items()}
        return update, left


def _conflict(before: AnyDefense, after: AnyDefense) -> str | None:
    """Why `after` can't follow `before`; None where it can."""
    if before.stage == "clip" and after.protects == "client":
        return f"{after.label} clips by itself; give it the max_norm"
    if before.stage == after.stage:
        return _TWICE[after.stage]
    if before.stage == "sum":
        return "the clients' updates are already added up, under encryption or masks; do it before"
    return _LATE[after.stage] if STAGES.index(after.stage) < STAGES.index(before.stage) else None
