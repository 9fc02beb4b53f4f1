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

from fl_core.errors import InputError
from fl_core.models import ModelConfig
from fl_core.reduction import mean_change
from fl_core.types import Config, EarlierUpdate, ModelState, RoundRecord, Signal, Tensors

View = Literal["individual", "aggregate", "key_holder", "ciphertext"]


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


Fact = Clip | Noise | ExampleClip | StepNoise | Sparsity | Quantiser


class NotObservable(Exception):
    """The threat model hides what an attack would need; the trial ends as `not_observable`."""


@dataclass(frozen=True, kw_only=True)
class ThreatModel(Config):
    """An honest-but-curious server.

    `view` is what it sees of the signal; unset, it is `aggregate` for `agg_update` and `individual` for the
    others. `labels` says whether it knows the labels of the training images. `knows_defense` says whether it
    knows which defense is in force and with which parameters.
    """

    view: View | None = None
    labels: Literal["unknown", "known"] = "unknown"
    knows_defense: bool = True

    def view_of(self, signal: Signal) -> View:
        """The view in force for `signal`; raises `InputError` where view and signal contradict each other."""
        if self.view is None:
            return "aggregate" if signal == "agg_update" else "individual"
        needed = "aggregate" if signal == "agg_update" else "individual"
        if self.view in ("individual", "aggregate") and self.view != needed:
            raise InputError(
                f"threat.view = {self.view!r} does not go with signal {signal!r}: "
                "agg_update is seen as aggregate, every other signal as individual."
            )
        return self.view


@dataclass(frozen=True, kw_only=True)
class Observation:
    """The attacker's whole input.

    `tensors` are gradients or deltas by parameter name, as `signal` says; for `agg_update` the mean over
    `clients` participants weighted by examples. `examples` is the number of images behind them, `steps` the
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
    Raises `NotObservable` where the server sees ciphertexts alone.
    """
    view = threat.view_of(record.signal)
    if view == "ciphertext":
        raise NotObservable("The server sees ciphertexts only: no number of the update reaches the attack.")
    if threat.labels == "known" and labels is None:
        raise ValueError("threat.labels is 'known' but no labels were passed to observe().")
    first = record.updates[0]
    return Observation(
        signal=record.signal,
        model=record.model,
        state=record.state,
        tensors=first.tensors if len(record.updates) == 1 else mean_change(record.updates).tensors,
        examples=sum(update.examples for update in record.updates),
        clients=len(record.updates),
        batch_size=record.batch_size,
        steps=max(update.steps for update in record.updates),
        lr=first.lr,
        momentum=first.momentum,
        facts=record.facts if threat.knows_defense else (),
        labels=labels if threat.labels == "known" else None,
        public_mean=public_mean,
        earlier=record.earlier if view == "individual" else (),
    )
