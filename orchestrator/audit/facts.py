"""What an audit rests on: facts that were given, that the signal shows, or that are assumed; contradictions."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from attack_core.gradients.targets import gradient_estimate
from fl_core.base.decibels import energy
from fl_core.base.numbers import TINY
from fl_core.base.types import ModelState, Tensors
from fl_core.federation.client import loss_gradient
from orchestrator.audit.explanation import Explanation
from orchestrator.audit.optimizer import Optimizer
from orchestrator.library.count import Counted, rounding_error
from orchestrator.library.invert import Case, precision_notes
from orchestrator.library.known import Known
from orchestrator.library.updates import Update

Source = Literal["given", "inferred", "assumed"]

_LARGEST = 0.5
"""An update whose norm is a larger share of that of the weights is none of a training that goes on from them."""
_LR_FITS = 0.1
"""A learning rate that is off by more than this share contradicts the update."""
_EXPLAINED = 0.9
"""A gradient that is this parallel (cosine) to the update fixes its scale."""


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One fact: its name, its value in words, where it comes from, why, and what contradicts it."""

    name: str
    value: str
    source: Source
    why: str = ""
    contradiction: str = ""


def contradicted(counted: Counted, examples: int, *, repeated: bool) -> bool:
    """Whether the signal holds another number of images than `examples`.

    It holds more only where local steps did not see images more than once (`repeated`), as ranks add up then; fewer
    only where the layer could have shown more, and no noise hides any.
    """
    if not counted.certain:
        return False
    if counted.examples > examples:
        return not repeated
    return counted.examples < examples and not counted.limited and not counted.sigma


def counted_fact(known: Known, counted: Counted, *, used: int, repeated: bool) -> Fact:
    """How many images there are; `repeated` says that local steps saw images more than once, so that ranks add up."""
    if known.examples is None:
        return Fact(
            name="images",
            value=str(used),
            source="inferred" if counted.certain else "assumed",
            why=f"{counted.why}, as many as it can show" if counted.limited else counted.why,
        )
    against = ""
    if contradicted(counted, known.examples, repeated=repeated):
        rest = "" if counted.examples > known.examples else "; others left no trace in it"
        against = f"the signal shows {counted.examples}, which are taken: {counted.why}{rest}"
    return Fact(name="images", value=str(known.examples), source="given", contradiction=against)


def training_facts(
    known: Known,
    sent: Update | Tensors,
    case: Case,
    explanation: Explanation | None,
    optimizer: Optimizer | None,
) -> list[Fact]:
    """Steps, batch size, learning rate, momentum; `known` is what was told, the case holds what was taken."""
    if not isinstance(sent, Update):
        return [
            Fact(
                name="signal",
                value="gradient",
                source="given",
                why="of the mean cross-entropy over the images",
            )
        ]
    seen, counted = case.observation, batches_counted(sent)
    facts = [Fact(name="signal", value="weight update", source="given")]
    for name, shown, why in (
        ("steps", "steps", "one epoch"),
        ("batch_size", "batch size", "one epoch"),
        ("lr", "learning rate", "nothing says the scale"),
        ("momentum", "momentum", ""),
    ):
        told, used = getattr(known, name), getattr(seen, name)
        given = told is not None and (name != "momentum" or told > 0)
        fact = Fact(
            name=shown,
            value=f"{told if given else used:g}",
            source="given" if given else "assumed",
            why="" if given else why,
        )
        if explanation is not None and name in explanation.facts:
            also = f"; so do {' or '.join(explanation.also)}" if explanation.also else ""
            text = f"the images explain the update at {explanation.facts[name]:.3g}"
            if name == "lr" and given and used < told:
                also += f"; so does a gradient that was clipped to {used / told:.3g} of its length"
            fact = (
                replace(fact, contradiction=f"{text}, which is taken{also}")
                if given
                else replace(fact, source="inferred", why=f"{text}{also}")
            )
        elif name == "lr" and not given and optimizer is not None:
            fact = replace(fact, source="inferred", why="the size of the numbers")
        elif name == "steps" and given and counted is not None and counted != told:
            fact = replace(fact, contradiction=f"BatchNorm counted {counted} batches")
        elif name == "steps" and not given and counted is not None:
            fact = replace(fact, source="inferred", why="BatchNorm counted so many batches")
        facts.append(fact)
    return facts


def batches_counted(sent: Update) -> int | None:
    """How many batches BatchNorm counted between the weights before and after; None where nothing counts."""
    counts = [float(value) for name, value in sent.buffers.items() if name.endswith("num_batches_tracked")]
    return int(counts[0]) if counts and counts[0] > 0 else None


def batch_norm_fact(sent: Update | Tensors) -> Fact | None:
    """Whether running statistics moved; None where there are none."""
    if not isinstance(sent, Update):
        return None
    moved = [value for name, value in sent.buffers.items() if name.endswith("running_mean")]
    if not moved:
        return None
    trained = any(bool(value.any()) for value in moved)
    value = "moved: layers normalised by the batch" if trained else "did not move: layers normalised by them"
    return Fact(name="BatchNorm statistics", value=value, source="inferred")


def optimizer_fact(optimizer: Optimizer | None) -> Fact | None:
    """The optimizer that sizes show; None where they may be SGD's."""
    if optimizer is None:
        return None
    against = "SGD is what updates are otherwise taken for; the attack matches the signs of the numbers alone"
    if optimizer.kind == "signs":
        return Fact(
            name="optimizer",
            value="Adam's first step, or a sign method",
            source="inferred",
            why=f"the numbers of each layer that moved have one size, {optimizer.size:.3g}, so only signs were sent",
            contradiction=against,
        )
    return Fact(
        name="optimizer",
        value="Adam or another adaptive method, after several steps",
        source="inferred",
        why="the numbers of all layers have nearly one size, which those of SGD have not",
        contradiction=f"{against}, which later steps blur",
    )


def precision_fact(sent: Update | Tensors) -> Fact | None:
    """What few bits of the stored weights cost; None where float32 held them."""
    if not isinstance(sent, Update) or not sent.coarse:
        return None
    kind = str(sent.stored).removeprefix("torch.")
    return Fact(name="precision", value=kind, source="inferred", why=precision_notes(sent)[0])


def rounding_sigma(sent: Update | Tensors, state: ModelState) -> float:
    """The deviation of the errors that few bits of the stored weights leave; 0 where float32 held them."""
    if not isinstance(sent, Update) or not sent.coarse:
        return 0.0
    weights = torch.cat([value.flatten() for value in state.parameters.values()])
    return rounding_error(weights, sent.stored)


def size_fact(sent: Update | Tensors, state: ModelState) -> Fact | None:
    """An update that is larger than the weights, as between weights of two trainings; None where it is smaller."""
    if not isinstance(sent, Update):
        return None
    moved, held = (
        sum(energy(value) for value in tensors.values()) for tensors in (sent.tensors, state.parameters)
    )
    if moved <= _LARGEST**2 * held:
        return None
    return Fact(
        name="size",
        value=f"{math.sqrt(moved / max(held, TINY)):.2g} of the weights",
        source="inferred",
        contradiction="either noise hides the training, or the weights before are those of another round or network",
    )


def direction_fact(sent: Update | Tensors, case: Case) -> Fact | None:
    """Whether the last bias moved against its gradient, as where before and after are swapped; None where it did not.

    The gradient of the cross-entropy by the last bias is negative only for classes that images have, and largest there.
    """
    seen, classes = case.observation, case.subject.classes
    biases = [name for name, value in seen.state.parameters.items() if value.shape == (classes,)]
    if not biases or 2 * seen.examples >= classes:
        return None
    gradient = -seen.tensors[biases[-1]] if isinstance(sent, Update) else seen.tensors[biases[-1]]
    down, up = int((gradient < 0).sum()), int((gradient > 0).sum())
    if down <= seen.examples or up > seen.examples or float(gradient[gradient.abs().argmax()]) < 0:
        return None
    how = (
        "the weights before and after are swapped"
        if isinstance(sent, Update)
        else "it is no gradient but a change"
    )
    return Fact(
        name="direction",
        value="uphill",
        source="inferred",
        why=f"{biases[-1]} has a negative gradient for {down} classes",
        contradiction=f"training goes downhill; it seems that {how}",
    )


def lr_contradiction(case: Case, images: Tensor, labels: Tensor) -> str:
    """What the answer's own gradient says of the learning rate; empty where it fits, or says nothing.

    `images` in [-1, 1]. One step of SGD moves the weights by -lr times the gradient: their ratio is the rate.
    """
    seen = case.observation
    if seen.signal != "one_step_update" or seen.facts:
        return ""
    device = case.subject.device
    own = loss_gradient(case.subject.model, seen.state, (images.to(device), labels.to(device)))
    wanted = gradient_estimate(seen)
    dot = sum(float((own[name] * wanted[name]).sum()) for name in own)
    square = sum(float(value.square().sum()) for value in own.values())
    target = sum(float(value.square().sum()) for value in wanted.values())
    if min(square, target) <= 0 or dot / (square * target) ** 0.5 < _EXPLAINED:
        return ""
    factor = dot / square
    if abs(factor - 1) <= _LR_FITS:
        return ""
    return f"the images explain the update at {seen.lr * factor:.3g}"
