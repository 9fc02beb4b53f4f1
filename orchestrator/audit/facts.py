"""What an audit rests on: facts that were given, that the signal shows, or that are assumed; contradictions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from attack_core.gradients.targets import gradient_estimate
from fl_core.base.types import Tensors
from fl_core.federation.client import loss_gradient
from orchestrator.library.count import Counted
from orchestrator.library.invert import Case
from orchestrator.library.known import Known
from orchestrator.library.updates import Update

Source = Literal["given", "inferred", "assumed"]

_SAME_SIZE = 1.05
"""Numbers whose 90th percentile is at most this multiple of their 10th have one size, as after Adam's first step."""
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


def counted_fact(known: Known, counted: Counted, *, used: int, repeated: bool) -> Fact:
    """How many images there are; `repeated` says that local steps saw images more than once, so that ranks add up."""
    if known.examples is None:
        return Fact(
            name="images",
            value=str(used),
            source="inferred" if counted.certain else "assumed",
            why=counted.why,
        )
    against = ""
    if counted.certain and not repeated and counted.examples > known.examples:
        against = f"the signal shows {counted.examples}, which are taken: {counted.why}"
    return Fact(name="images", value=str(known.examples), source="given", contradiction=against)


def training_facts(known: Known, sent: Update | Tensors, case: Case) -> list[Fact]:
    """Steps, batch size, learning rate, momentum."""
    if not isinstance(sent, Update):
        return [
            Fact(
                name="signal",
                value="gradient",
                source="given",
                why="of the mean cross-entropy over the images",
            )
        ]
    seen, told = case.observation, sent.facts
    facts = [Fact(name="signal", value="weight update", source="given")]
    counted = batches_counted(sent)
    for name, value in (("steps", seen.steps), ("batch_size", seen.batch_size)):
        given = getattr(known, name) is not None or name in told
        against = ""
        if name == "steps" and given and counted is not None and counted != value:
            against = f"BatchNorm counted {counted} batches"
        why = "" if given else "one epoch"
        facts.append(
            Fact(
                name=name.replace("_", " "),
                value=str(value),
                source="given" if given else "assumed",
                why=why,
                contradiction=against,
            )
        )
    lr_given = known.lr is not None or "lr" in told
    facts.append(
        Fact(
            name="learning rate",
            value=f"{seen.lr:g}",
            source="given" if lr_given else "assumed",
            why="" if lr_given else "nothing says the scale",
        )
    )
    momentum = bool(known.momentum) or "momentum" in told
    facts.append(Fact(name="momentum", value=f"{seen.momentum:g}", source="given" if momentum else "assumed"))
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


def optimizer_fact(sent: Update | Tensors) -> Fact | None:
    """Whether the numbers have one size, as after the first step of Adam; None where they have many."""
    if not isinstance(sent, Update):
        return None
    sizes = torch.cat([value.abs().flatten() for value in sent.tensors.values()])
    sizes = sizes[sizes > 0]
    if len(sizes) > 1_000_000:
        sizes = sizes[:: len(sizes) // 1_000_000]
    if len(sizes) < 100:
        return None
    low, high = (float(torch.quantile(sizes, share)) for share in (0.1, 0.9))
    if high > _SAME_SIZE * low:
        return None
    return Fact(
        name="optimizer",
        value="Adam or a sign method",
        source="inferred",
        why=f"nearly all numbers that are not 0 have the size {high:.3g}, so only signs were sent",
        contradiction="SGD is what the attack's facts say; its answer rests on signs",
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
