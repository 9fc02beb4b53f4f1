"""What an audit rests on: premises that were given, that the signal shows, or that are assumed; contradictions."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from fl_core.base.decibels import TINY, energy
from fl_core.base.types import ModelState, Tensors
from orchestrator.audit.explanation import EXPLANATION_LIMITS, Explanation, explained_at, lr_of_one_step
from orchestrator.inference.optimizer import Optimizer
from orchestrator.library.count import Counted, rounding_error
from orchestrator.library.invert import Case, precision_notes
from orchestrator.library.known import Known
from orchestrator.library.updates import Update

Source = Literal["given", "inferred", "assumed"]

_LARGEST = 0.5
"""An update whose norm is a larger share of that of the weights is none of a training that goes on from them."""


@dataclass(frozen=True, kw_only=True)
class Premise:
    """One thing that an audit rests on: its name, its value in words, its source, why, and what contradicts it."""

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


def counted_premise(known: Known, counted: Counted, *, used: int, repeated: bool) -> Premise:
    """How many images there are; `repeated` says that local steps saw images more than once, so that ranks add up."""
    if known.examples is None:
        return Premise(
            name="images",
            value=str(used),
            source="inferred" if counted.certain else "assumed",
            why=f"{counted.why}, as many as it can show" if counted.limited else counted.why,
        )
    against = ""
    if contradicted(counted, known.examples, repeated=repeated):
        rest = "" if counted.examples > known.examples else "; others left no trace in it"
        against = f"the signal shows {counted.examples}, which are taken: {counted.why}{rest}"
    return Premise(name="images", value=str(known.examples), source="given", contradiction=against)


def training_premises(
    known: Known,
    sent: Update | Tensors,
    case: Case,
    explanation: Explanation | None,
    optimizer: Optimizer | None,
) -> list[Premise]:
    """Steps, batch size, learning rate, momentum; `known` is what was told, the case holds what was taken."""
    if not isinstance(sent, Update):
        return [
            Premise(
                name="signal",
                value="gradient",
                source="given",
                why="of the mean cross-entropy over the images",
            )
        ]
    seen, counted = case.observation, batches_counted(sent)
    found = [Premise(name="signal", value="weight update", source="given")]
    for name, shown, why in (
        ("steps", "steps", "one epoch"),
        ("batch_size", "batch size", "one epoch"),
        ("lr", "learning rate", "nothing says the scale"),
        ("momentum", "momentum", ""),
    ):
        told, used = getattr(known, name), getattr(seen, name)
        given = told is not None and (name != "momentum" or told > 0)
        premise = Premise(
            name=shown,
            value=f"{told if given else used:g}",
            source="given" if given else "assumed",
            why="" if given else why,
        )
        if explanation is not None and name in explanation.facts:
            also = f"; so do {' or '.join(explanation.also)}" if explanation.also else ""
            text = explained_at(explanation.facts[name])
            if name == "lr" and given and used < told:
                also += f"; so does a gradient that was clipped to {used / told:.3g} of its length"
            premise = (
                replace(premise, contradiction=f"{text}, which is taken{also}")
                if given
                else replace(premise, source="inferred", why=f"{text}{also}")
            )
        elif name == "lr" and not given and optimizer is not None:
            premise = replace(premise, source="inferred", why="the size of the numbers")
        elif name == "steps" and given and counted is not None and counted != told:
            premise = replace(premise, contradiction=f"BatchNorm counted {counted} batches")
        elif name == "steps" and not given and counted is not None:
            premise = replace(premise, source="inferred", why="BatchNorm counted so many batches")
        found.append(premise)
    return found


def batches_counted(sent: Update) -> int | None:
    """How many batches BatchNorm counted between the weights before and after; None where nothing counts."""
    counts = [float(value) for name, value in sent.buffers.items() if name.endswith("num_batches_tracked")]
    return int(counts[0]) if counts and counts[0] > 0 else None


def batch_norm_premise(sent: Update | Tensors) -> Premise | None:
    """Whether running statistics moved; None where there are none."""
    if not isinstance(sent, Update):
        return None
    moved = [value for name, value in sent.buffers.items() if name.endswith("running_mean")]
    if not moved:
        return None
    trained = any(bool(value.any()) for value in moved)
    value = "moved: layers normalised by the batch" if trained else "did not move: layers normalised by them"
    return Premise(name="BatchNorm statistics", value=value, source="inferred")


def optimizer_premise(optimizer: Optimizer | None) -> Premise | None:
    """The optimizer that sizes show; None where they may be SGD's."""
    if optimizer is None:
        return None
    against = "SGD is what updates are otherwise taken for; the attack matches the signs of the numbers alone"
    if optimizer.kind == "signs":
        return Premise(
            name="optimizer",
            value="Adam's first step, or a sign method",
            source="inferred",
            why=f"the numbers of each layer that moved have one size, {optimizer.size:.3g}, so only signs were sent",
            contradiction=against,
        )
    return Premise(
        name="optimizer",
        value="Adam or another adaptive method, after several steps",
        source="inferred",
        why="the numbers of all layers have nearly one size, which those of SGD have not",
        contradiction=f"{against}, which later steps blur",
    )


def precision_premise(sent: Update | Tensors) -> Premise | None:
    """What few bits of the stored weights cost; None where float32 held them."""
    if not isinstance(sent, Update) or not sent.coarse:
        return None
    kind = str(sent.stored).removeprefix("torch.")
    return Premise(name="precision", value=kind, source="inferred", why=precision_notes(sent)[0])


def rounding_sigma(sent: Update | Tensors, state: ModelState) -> float:
    """The deviation of the errors that few bits of the stored weights leave; 0 where float32 held them."""
    if not isinstance(sent, Update) or not sent.coarse:
        return 0.0
    weights = torch.cat([value.flatten() for value in state.parameters.values()])
    return rounding_error(weights, sent.stored)


def size_premise(sent: Update | Tensors, state: ModelState) -> Premise | None:
    """An update that is larger than the weights, as between weights of two trainings; None where it is smaller."""
    if not isinstance(sent, Update):
        return None
    moved, held = (
        sum(energy(value) for value in tensors.values()) for tensors in (sent.tensors, state.parameters)
    )
    if moved <= _LARGEST**2 * held:
        return None
    return Premise(
        name="size",
        value=f"{math.sqrt(moved / max(held, TINY)):.2g} of the weights",
        source="inferred",
        contradiction="either noise hides the training, or the weights before are those of another round or network",
    )


def direction_premise(sent: Update | Tensors, case: Case) -> Premise | None:
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
    return Premise(
        name="direction",
        value="uphill",
        source="inferred",
        why=f"{biases[-1]} has a negative gradient for {down} classes",
        contradiction=f"training goes downhill; it seems that {how}",
    )


def lr_contradiction(case: Case, images: Tensor, labels: Tensor) -> str:
    """What the answer's `images` (in [-1, 1]) say of the learning rate of one step; empty where it fits, or nothing."""
    lr = lr_of_one_step(case, images, labels)
    if lr is None or abs(lr / case.observation.lr - 1) <= EXPLANATION_LIMITS.off:
        return ""
    return explained_at(lr)
