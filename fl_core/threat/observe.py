"""What the attacker may know: facts about a defense, the threat model, and the observation it leaves.

`observe` is the one place where information is removed on the way from a capture to an attack.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fl_core.base.decibels import decibels, energy
from fl_core.base.errors import InputError
from fl_core.base.types import (
    ClientUpdate,
    Config,
    EarlierUpdate,
    ModelState,
    Protection,
    RoundRecord,
    Signal,
    Tensors,
    Truth,
    require,
)
from fl_core.data.transforms import Transform
from fl_core.federation.aggregation import FedAvg, FixedMean, mean_change
from fl_core.models.zoo import ModelConfig

View = Literal["individual", "aggregate", "key_holder", "ciphertext", "public"]

SUMMED: tuple[View, ...] = ("aggregate", "public")
"""Views of a round's mean."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """Each update was scaled to at most this L2 norm (over all tensors, in units of the released signal)."""

    max_norm: float


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Independent noise of this standard deviation was added to every released number."""

    distribution: Literal["gaussian", "laplace"]
    sigma: float


@dataclass(frozen=True, kw_only=True)
class MeanNoise:
    """Independent Gaussian noise of this standard deviation was added to every number of the mean of a round's updates.

    The server adds it, so that it is in what becomes public and not in what the server itself has seen.
    """

    sigma: float


@dataclass(frozen=True, kw_only=True)
class ExampleClip:
    """At each local step every example's gradient was scaled to at most this L2 norm before they were averaged."""

    max_norm: float


@dataclass(frozen=True, kw_only=True)
class StepNoise:
    """Independent Gaussian noise of this standard deviation was added to every number of each local step's gradient."""

    sigma: float

    def in_delta(self, *, lr: float, momentum: float, steps: int) -> float:
        """The standard deviation of what it adds to a weight delta of so many steps from zero momentum.

        The noise of the k-th step from the end moves the weights by lr (1 + m + ... + m^(k-1)) of itself. What it does
        to the gradients of later steps is not in it.
        """
        carried = (sum(momentum**i for i in range(k)) for k in range(1, steps + 1))
        return lr * self.sigma * math.sqrt(sum(factor**2 for factor in carried))


@dataclass(frozen=True, kw_only=True)
class Sparsity:
    """Only some numbers of each update were sent: those that are 0 in it were withheld.

    A withheld number is at most as large, in absolute value, as the smallest that was sent: of its tensor where
    `scope` is `tensor`, of the whole update where it is `all`.
    """

    scope: Literal["all", "tensor"]


@dataclass(frozen=True, kw_only=True)
class Quantiser:
    """Every number was rounded to one of 2^`bits` values, evenly spread over its tensor's [-m, m].

    m is the largest absolute value of the tensor and is sent too, so that the values can be told from the signal.
    With `scheme` `stochastic` the rounding goes up or down at random and is right on average; with `sign` the one bit
    is the sign, and m the tensor's mean absolute value.
    """

    scheme: Literal["stochastic", "sign"]
    bits: int


@dataclass(frozen=True, kw_only=True)
class PrunedRepresentation:
    """In each local step some columns of one fully connected layer's weight gradient were replaced by 0.

    They belong to the layer's inputs that were cut; which ones is not told. `layer` says which of the network's
    fully connected layers it is.
    """

    layer: Literal["first", "last"]


@dataclass(frozen=True, kw_only=True, eq=False)
class InTheClear:
    """Only some numbers of the update reached the server as numbers, the rest encrypted, which the signal has as 0.

    `masks` says which, by parameter name: True where a number is what it was. Nothing bounds the others.
    """

    masks: Tensors

    def to(self, device: torch.device) -> InTheClear:
        """The same with every mask on `device`."""
        return InTheClear(masks={name: mask.to(device) for name, mask in self.masks.items()})


@dataclass(frozen=True, kw_only=True)
class RandomCode:
    """The network's bottleneck drew its code anew for each image, and `beta` times its divergence is in the loss."""

    beta: float


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Each image of a local batch was mixed with the next one of a random circle, and labels likewise.

    A batch has one share, from Beta(`alpha`, `alpha`).
    """

    alpha: float


@dataclass(frozen=True, kw_only=True)
class HiddenMixture:
    """Each image of a local batch was mixed with `images` - 1 others of it; then each number's sign was drawn anew."""

    images: int


@dataclass(frozen=True, kw_only=True)
class Augmented:
    """Each image was changed by the transforms of `policy`, each with a draw of its own, before it was trained on."""

    policy: tuple[Transform, ...]


Fact = (
    Clip
    | Noise
    | MeanNoise
    | ExampleClip
    | StepNoise
    | Sparsity
    | Quantiser
    | PrunedRepresentation
    | InTheClear
    | RandomCode
    | Mixture
    | HiddenMixture
    | Augmented
)


class NotObservable(Exception):
    """The threat model hides what an attack would need; the trial ends as `not_observable`."""


@dataclass(frozen=True, kw_only=True)
class ThreatModel(Config):
    """An honest-but-curious server, or whoever else sees the `view`.

    `view` is what it sees of the signal; unset, it is `aggregate` for `agg_update` and under a secure sum, and
    `individual` for the others. `public` is what everybody sees: the change of the global weights. `labels` says
    whether it knows the labels of the training images. `knows_defense` says whether it knows which defense is in
    force and with which parameters. `colluders` other clients of an aggregate give it their updates, which it takes
    out.
    """

    view: View | None = None
    labels: Literal["unknown", "known"] = "unknown"
    knows_defense: bool = True
    colluders: int = 0

    def __post_init__(self) -> None:
        require(self.colluders >= 0, self, "colluders", "at least 0")

    def view_of(self, signal: Signal, protection: Protection | None = None) -> View:
        """The view in force for `signal` under what protects single updates.

        Raises `InputError` where the view contradicts either.
        """
        if self.view == "public" and signal != "agg_update":
            raise InputError(
                f"threat.view = 'public' does not go with signal {signal!r}: global weights become public, "
                "and nothing of a single client; use signal agg_update."
            )
        needed: View = "aggregate" if signal == "agg_update" or protection else "individual"
        if self.view is None:
            return needed
        if self.view == "key_holder" and protection != "encrypted":
            raise InputError(
                "threat.view = 'key_holder' needs a defense with a key that opens single updates: 'ckks' or 'paillier'."
            )
        if self.view == "ciphertext" and protection is None:
            raise InputError(
                "threat.view = 'ciphertext' needs a defense that hides updates: 'ckks', 'paillier' or 'masking'."
            )
        if protection is None and self.view not in (needed, "public"):
            raise InputError(
                f"threat.view = {self.view!r} does not go with signal {signal!r}: "
                "agg_update is seen as aggregate, every other signal as individual."
            )
        return self.view

    def check_colluders(self, view: View, clients: int) -> None:
        """Raise `InputError` where not one of an aggregate's `clients` would be left."""
        rule = f"less than the {clients} clients of an aggregate"
        require(view not in SUMMED or self.colluders < clients, self, "colluders", rule)


@dataclass(frozen=True, kw_only=True)
class Observation:
    """The attacker's whole input.

    `tensors` are gradients or deltas by parameter name, as `signal` says; those of `clients` > 1 are the mean over
    these clients, weighted by examples. `examples` is the number of images behind them, `steps` the
    local steps of one client, `lr` and `momentum` those of its optimizer. `labels` (N,) is there only where
    the threat model says that they are known. `public_mean` (3, S, S) in [-1, 1] is the mean of public images,
    which anybody has; None where the setting offers none. `earlier` holds what an individual view saw of the
    same client before, oldest first, where its momentum persists; empty where it starts from zero.
    """

    signal: Signal
    model: ModelConfig
    state: ModelState
    tensors: Tensors
    examples: int
    clients: int
    batch_size: int
    steps: int
    lr: float
    momentum: float
    facts: tuple[Fact, ...] = ()
    labels: Tensor | None = None
    public_mean: Tensor | None = None
    earlier: tuple[EarlierUpdate, ...] = ()

    def to(self, device: torch.device) -> Observation:
        """The same observation with every tensor on `device`."""
        return dataclasses.replace(
            self,
            state=self.state.to(device),
            tensors={name: tensor.to(device) for name, tensor in self.tensors.items()},
            labels=None if self.labels is None else self.labels.to(device),
            public_mean=None if self.public_mean is None else self.public_mean.to(device),
            facts=tuple(fact.to(device) if isinstance(fact, InTheClear) else fact for fact in self.facts),
            earlier=tuple(
                dataclasses.replace(update, tensors={k: v.to(device) for k, v in update.tensors.items()})
                for update in self.earlier
            ),
        )


def observe(
    record: RoundRecord,
    threat: ThreatModel,
    *,
    labels: Tensor | None = None,
    public_mean: Tensor | None = None,
) -> Observation:
    """What `threat` leaves of `record`.

    `labels` (N,) are the true ones; they pass only where the threat model says that they are known.
    `public_mean` (3, S, S) passes always, earlier updates of a client only where updates are seen one by one.
    Where a part of every update goes in the clear, `individual` and `ciphertext` leave that part of the victim's, 0
    elsewhere. Raises `NotObservable` where the server sees ciphertexts alone, and where it would need a single update
    out of an opened sum.
    """
    view = threat.view_of(record.signal, record.protection)
    plain = _in_the_clear(record) if _sees_plain_part(record, view) else None
    if view == "ciphertext" and plain is None:
        raise NotObservable("The server sees ciphertexts only: no number of the update reaches the attack.")
    if view == "individual" and record.aggregate is not None and plain is None:
        raise NotObservable("The server sees the opened sum only: no client's own update reaches the attack.")
    if threat.labels == "known" and labels is None:
        raise ValueError("threat.labels is 'known' but no labels were passed to observe().")
    seen = seen_updates(record, threat)
    first = seen[0]
    # What is left of a round's mean when all others are taken out is one client's local update.
    alone = record.signal == "agg_update" and len(seen) == 1 < len(record.updates)
    tensors = _mean(record, view, len(seen)) if view in SUMMED else first.tensors
    facts = _facts(record, view, len(seen))
    if plain is not None:
        tensors = {name: torch.where(plain.masks[name], value, 0.0) for name, value in tensors.items()}
        facts = (*facts, plain)
    return Observation(
        signal="local_update" if alone else record.signal,
        model=record.model,
        state=record.state,
        tensors=tensors,
        examples=sum(update.examples for update in seen),
        clients=len(seen),
        batch_size=record.batch_size,
        steps=max(update.steps for update in seen),
        lr=first.lr,
        momentum=first.momentum,
        facts=facts if threat.knows_defense else (),
        labels=labels if threat.labels == "known" else None,
        public_mean=public_mean,
        earlier=record.earlier if view == "individual" else (),
    )


def seen_updates(record: RoundRecord, threat: ThreatModel) -> tuple[ClientUpdate, ...]:
    """The updates that what the attacker sees is made of, the victim's first; all of them where it sees nothing.

    Colluders are the last clients of the aggregate. Raises `InputError` where they are all of them.
    """
    view = threat.view_of(record.signal, record.protection)
    if view == "key_holder" or _sees_plain_part(record, view):
        return record.updates[:1]
    threat.check_colluders(view, len(record.updates))
    return record.updates[: len(record.updates) - (threat.colluders if view in SUMMED else 0)]


def _sees_plain_part(record: RoundRecord, view: View) -> bool:
    """Whether `view` is of a single upload of which a part went in the clear, beside ciphertexts."""
    if view not in ("individual", "ciphertext") or record.aggregate is None:
        return False
    return not all(bool(hidden.all()) for hidden in _hidden(record).values())


def _in_the_clear(record: RoundRecord) -> InTheClear:
    """What went in the clear of the victim's own upload."""
    return InTheClear(masks={name: ~hidden for name, hidden in _hidden(record).items()})


def _hidden(record: RoundRecord) -> Tensors:
    """Which numbers of the victim's own update were protected, by parameter name; empty where all were."""
    names = record.updates[0].tensors
    hidden = {} if record.aggregate is None else record.aggregate.hidden
    return {name: mask for name, mask in hidden.items() if name in names}


def truth_behind(record: RoundRecord, threat: ThreatModel, truth: Truth) -> Truth:
    """The part of `truth` that is in what the attacker sees."""
    return truth.of_clients({update.client for update in seen_updates(record, threat)})


def shares_of(record: RoundRecord) -> tuple[float, ...]:
    """Each update's weight in the record's mean, in their order; with all that were planned they sum to 1."""
    if record.aggregate is not None:
        return record.aggregate.shares
    images = sum(update.examples for update in record.updates)
    return record.shares or tuple(update.examples / images for update in record.updates)


def published_noise_db(record: RoundRecord) -> float | None:
    """The energy of what the server added to the mean over the mean's, in dB; None where it added nothing."""
    if record.published is None:
        return None
    pairs = [(record.published[name], value) for name, value in _whole_mean(record, "aggregate").items()]
    return decibels(
        sum(energy(public - mean) for public, mean in pairs), sum(energy(mean) for _, mean in pairs)
    )


def _mean(record: RoundRecord, view: View, left: int) -> Tensors:
    """The mean of the first `left` updates, from that of all as `view` sees it and the known others."""
    updates, shares, whole = record.updates, shares_of(record), _whole_mean(record, view)
    rest = sum(shares[:left])
    if left == len(updates) and math.isclose(rest, 1.0, rel_tol=1e-9):
        return whole
    found = {}
    for name, value in whole.items():
        total = value.double()
        for update, share in zip(updates[left:], shares[left:], strict=True):
            total = total - share * update.tensors[name].double()
        found[name] = (total / rest).to(value.dtype)
    return found


def _whole_mean(record: RoundRecord, view: View) -> Tensors:
    """The mean of all updates: as it was made public, as it was opened, or as the server finds it."""
    if view == "public" and record.published is not None:
        return record.published
    if record.aggregate is not None:
        return record.aggregate.tensors
    reduction = FixedMean(planned=1.0 / record.shares[0]) if record.shares else FedAvg()
    return mean_change(record.updates, reduction).tensors


def _facts(record: RoundRecord, view: View, left: int) -> tuple[Fact, ...]:
    """The facts that are about what `view` sees: noise that a server adds is in what it makes public alone."""
    rest = sum(shares_of(record)[:left])
    facts = (
        dataclasses.replace(fact, sigma=fact.sigma / rest) if isinstance(fact, MeanNoise) else fact
        for fact in record.facts
    )
    return tuple(fact for fact in facts if view == "public" or not isinstance(fact, MeanNoise))
