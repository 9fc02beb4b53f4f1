"""The images of a batch that did not come apart, attacked by what the others leave of the gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from attack_core.base.evaluations import with_cost_of
from attack_core.base.types import AttackFailed, Reconstruction
from attack_core.gradients.targets import gradient_estimate
from attack_core.solving.by_features.problem import Problem
from fl_core.federation.client import loss_gradient
from fl_core.threat.observation import Observation


def with_others(
    found: Reconstruction, problem: Problem, attack: Callable[[Observation], Reconstruction]
) -> Reconstruction:
    """`found` with the images that did not come apart attacked by themselves, where that explains more of it.

    What came apart is held fixed: the rest is a smaller batch, whose gradient is what it leaves. `attack` goes on there
    with the same generator.
    """
    apart, observation = problem.count, problem.observation
    images, labels = found.images[:apart], found.labels[:apart]
    rest = remainder(observation, problem.model, images, labels)
    if rest is None:
        return found
    try:
        other = attack(rest)
    except AttackFailed:
        return found
    images, labels = torch.cat([images, other.images]), torch.cat([labels, other.labels])
    loss = problem.loss_of(images, labels)
    if other.outcome == "prior" or not loss < found.loss:
        return with_cost_of(found, other)
    note = f"the other {len(other.images)} images by what these leave of the gradient"
    whole = replace(
        found,
        images=images,
        labels=labels,
        loss=loss,
        candidates=images[None],
        notes=(problem.read.note(), note, *other.notes),
    )
    return with_cost_of(whole, other)


def remainder(
    observation: Observation, model: nn.Module, images: Tensor, labels: Tensor
) -> Observation | None:
    """What the server would have seen of the other images alone, `images` (N, C, S, S) with `labels` (N,) being right.

    A batch's gradient is the mean of its images': theirs are taken off. None where other images are of no use: no
    image is left, several steps moved the weights, or a defense changed the numbers.
    """
    left = observation.examples - len(images)
    if left < 1 or observation.steps > 1 or observation.facts:
        return None
    device = next(iter(observation.tensors.values())).device
    found = loss_gradient(model, observation.state, (images.to(device), labels.to(device)))
    tensors = {
        name: (observation.examples * value - len(images) * found[name]) / left
        for name, value in gradient_estimate(observation).items()
    }
    return replace(
        observation,
        signal="gradients",
        tensors=tensors,
        examples=left,
        clients=1,
        batch_size=left,
        labels=None,
        earlier=(),
        later=(),
        statistics={},
    )
