"""The observation: what a threat model leaves of a captured record. The one place where information is removed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, Self

from fl_core.base.decibels import decibels, energy
from fl_core.base.types import (
    ClientUpdate,
    EarlierUpdate,
    ModelState,
    Signal,
    Tensors,
    Truth,
)
from fl_core.federation.aggregation import FedAvg, FixedMean, mean_change
from fl_core.models.config import Network
from fl_core.threat.facts import Fact, InTheClear
from fl_core.threat.model import SUMMED, ThreatModel, View
from fl_core.threat.record import RoundRecord

if TYPE_CHECKING:
    import torch
    from torch import Tensor

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
"""What BatchNorm calls its buffers: two running statistics and the number of batches in them."""


class NotObservable(Exception):
    """The threat model hides what an attack would need; the trial ends as `not_observable`."""


class TrainedPrior(Protocol):
    """What an attacker has learned of images before any signal, from public ones alone."""

    def penalty(self, images: Tensor) -> Tensor:
        """How unlikely each of the images (N, C, H, W) is, (N,)."""

    def to(self, device: torch.device) -> Self:
        """The same on `device`."""


@dataclass(frozen=True, kw_only=True)
class Observation:
    """The attacker's whole input.

    `tensors` are gradients or deltas by parameter name, as `signal` says; those of `clients` > 1 are the mean over
    these clients, weighted by examples. `examples` is the number of images behind them, `steps` the
    local steps of one client, `lr` and `momentum` those of its optimizer. `labels` (N,) is there only where
    the threat model says that they are known. `public_mean` (3, S, S) in [-1, 1] is the mean of public images,
    which anybody has; None where the setting offers none. `prior` is what the attacker has learned from public images,
    where it has. `earlier` holds what an individual view saw of the
    same client before, oldest first, where its momentum persists; empty where it starts from zero. `later` holds what
    was seen of the same images in rounds after this one, oldest first, each at its own weights; see `rounds`.
    `statistics` is the change of BatchNorm's running statistics and of its counts of batches, by buffer name, those of
    `clients` > 1 averaged as the tensors are; {} where it is not seen.
    """

    signal: Signal
    model: Network
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
    prior: TrainedPrior | None = None
    earlier: tuple[EarlierUpdate, ...] = ()
    later: tuple[Observation, ...] = ()
    statistics: Tensors = field(default_factory=dict)

    @property
    def rounds(self) -> tuple[Observation, ...]:
        """What was seen of the same images in each round that was watched, this one first, each by itself."""
        return (dataclasses.replace(self, later=()), *self.later)

    def to(self, device: torch.device) -> Observation:
        """The same observation with every tensor on `device`."""
        return dataclasses.replace(
            self,
            state=self.state.to(device),
            tensors={name: tensor.to(device) for name, tensor in self.tensors.items()},
            labels=None if self.labels is None else self.labels.to(device),
            public_mean=None if self.public_mean is None else self.public_mean.to(device),
            prior=None if self.prior is None else self.prior.to(device),
            facts=tuple(fact.to(device) for fact in self.facts),
            earlier=tuple(
                dataclasses.replace(update, tensors={k: v.to(device) for k, v in update.tensors.items()})
                for update in self.earlier
            ),
            later=tuple(each.to(device) for each in self.later),
            statistics={name: tensor.to(device) for name, tensor in self.statistics.items()},
        )


def observe(
    record: RoundRecord,
    threat: ThreatModel,
    *,
    labels: Tensor | None = None,
    public_mean: Tensor | None = None,
    prior: TrainedPrior | None = None,
) -> Observation:
    """What `threat` leaves of `record`.

    `labels` (N,) are the true ones; they pass only where the threat model says that they are known.
    `public_mean` (3, S, S) and `prior` pass always, earlier updates of a client only where updates are seen one by one.
    Where a part of every update goes in the clear, `individual` and `ciphertext` leave that part of the victim's, 0
    elsewhere. The change of BatchNorm's statistics passes with `threat.sees_statistics`, where it is sent and not
    encrypted. Raises `NotObservable` where the server sees ciphertexts alone, and where it would need a single
    update out of an opened sum.
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
    tensors = (
        _mean(record, _whole_mean(record, view), _tensors, len(seen)) if view in SUMMED else first.tensors
    )
    facts = _facts(record, view, len(seen))
    if plain is not None:
        import torch

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
        prior=prior,
        earlier=record.earlier if view == "individual" else (),
        later=tuple(
            observe(each, threat, labels=labels, public_mean=public_mean, prior=prior)
            for each in record.later
        ),
        statistics=_statistics(record, view, len(seen)) if threat.sees_statistics and plain is None else {},
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


def released_statistics(update: ClientUpdate) -> Tensors:
    """The change of BatchNorm's statistics in an update, by buffer name; {} where a defense lets none of it out.

    What it lets out counts batches: training without any leaves nothing to tell.
    """
    found = {name: value for name, value in update.buffers.items() if name.split(".")[-1] in STATISTICS}
    counts = [value for name, value in found.items() if name.endswith(STATISTICS[-1])]
    return found if any(float(count) > 0 for count in counts) else {}


def _statistics(record: RoundRecord, view: View, left: int) -> Tensors:
    """The change of BatchNorm's statistics that `view` has of a round, of its first `left` updates."""
    first = released_statistics(record.updates[0])
    if view not in SUMMED or not first:
        return first
    opened = record.aggregate
    whole = mean_change(record.updates, _reduction(record)).buffers if opened is None else opened.buffers
    return _mean(record, {name: whole[name] for name in first}, _buffers, left)


def _tensors(update: ClientUpdate) -> Tensors:
    return update.tensors


def _buffers(update: ClientUpdate) -> Tensors:
    return update.buffers


def _mean(record: RoundRecord, whole: Tensors, part: Callable[[ClientUpdate], Tensors], left: int) -> Tensors:
    """The mean of the first `left` updates, from the `whole` mean of a part of all and the known others."""
    updates, shares = record.updates, shares_of(record)
    rest = sum(shares[:left])
    if left == len(updates) and math.isclose(rest, 1.0, rel_tol=1e-9):
        return whole
    found = {}
    for name, value in whole.items():
        total = value.double()
        for update, share in zip(updates[left:], shares[left:], strict=True):
            total = total - share * part(update)[name].double()
        found[name] = (total / rest).to(value.dtype)
    return found


def _whole_mean(record: RoundRecord, view: View) -> Tensors:
    """The mean of all updates: as it was made public, as it was opened, or as the server finds it."""
    if view == "public" and record.published is not None:
        return record.published
    if record.aggregate is not None:
        return record.aggregate.tensors
    return mean_change(record.updates, _reduction(record)).tensors


def _reduction(record: RoundRecord) -> FedAvg:
    """How the server adds a round's updates that it sees."""
    return FixedMean(planned=1.0 / record.shares[0]) if record.shares else FedAvg()


def _facts(record: RoundRecord, view: View, left: int) -> tuple[Fact, ...]:
    """The facts that are about what `view` sees: noise that a server adds is in what it makes public alone."""
    share = sum(shares_of(record)[:left])
    facts = (fact.seen_as(view, share) for fact in record.facts)
    return tuple(fact for fact in facts if fact is not None)
