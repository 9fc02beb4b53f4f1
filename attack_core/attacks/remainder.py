"""The images of a batch that did not come apart, attacked by what the others leave of the gradient."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from attack_core.gradients.targets import gradient_estimate
from fl_core.federation.client import loss_gradient
from fl_core.threat.observation import Observation


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
