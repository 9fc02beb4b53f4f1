"""What the fully connected end of a network makes of images in local training, with the data's word on its units.

A unit whose output is nearly 0 is on or off by a little that noise decides, and its error is there or not. The
gradient says which: it holds the error or does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from attack_core.fc.head import Head
from attack_core.gradients.targets import geometric, travelled
from fl_core.base.device import exact
from fl_core.base.types import Tensors
from fl_core.threat.observation import Observation

_PURPOSE = "taking a batch's gradient apart"
Weights = list[tuple[Tensor, Tensor]]
"""Each layer's weight (O, I) and bias (O,), float64 on the CPU."""


@dataclass(frozen=True)
class Said:
    """What the gradient says of the errors (B, O) at a hidden layer's units: `errors`, off by `noise`, (B, O) too."""

    errors: Tensor
    noise: Tensor


@dataclass(frozen=True, kw_only=True)
class NetworkLimits:
    """When the data decide whether a unit is on."""

    nats: float = 4.0
    """By so much, in log-likelihood, one has to be likelier than the other; not measured against other values."""


NETWORK_LIMITS = NetworkLimits()
"""The limits in force."""


def layers_of(weights: Tensors, head: Head) -> Weights:
    """The layers of `head`, first to last."""
    return [
        (exact(weights[f"{name}.weight"], _PURPOSE), exact(weights[f"{name}.bias"], _PURPOSE))
        for name in head.layers
    ]


def outputs_of(layers: Weights, inputs: Tensor) -> list[Tensor]:
    """Each layer's output (B, O) before its ReLU, the logits last, from inputs (B, I)."""
    found = list[Tensor]()
    for weight, bias in layers:
        inputs = functional.linear(inputs if not found else found[-1].relu(), weight, bias)
        found.append(inputs)
    return found


def errors_of(
    layers: Weights,
    outputs: Sequence[Tensor],
    logit_errors: Tensor,
    said: Sequence[Said] = (),
    limits: NetworkLimits = NETWORK_LIMITS,
) -> list[Tensor]:
    """Each layer's errors (B, O) from those at the logits (B, K), units on or off as `outputs` have it.

    Where `said`, layer by layer, decides about a unit, it is on or off by that.
    """
    errors = [logit_errors]
    for number in range(len(layers) - 2, -1, -1):
        whole = errors[0] @ layers[number + 1][0]
        on = outputs[number] > 0
        if number < len(said):
            seen = said[number]
            # How much likelier the data are if the unit is on than if it is off.
            gain = whole * (2.0 * seen.errors - whole) / (2.0 * seen.noise.square())
            on = torch.where(gain.abs() > limits.nats, gain > 0, on)
        errors.insert(0, whole * on)
    return errors


@dataclass(frozen=True)
class Training:
    """One client's local training, as far as it decides what each image's errors count in the signal.

    `size` images each step, all of them at every step with `again`. Their part in the signal's mean gradient is
    `shares` (one for each step) over the images of a step.
    """

    size: int
    shares: tuple[float, ...]
    again: bool
    lr: float
    momentum: float

    @classmethod
    def of(cls, observation: Observation) -> Training:
        """What the observation says of it; for the mean of several clients' single steps, one step on all images."""
        steps, m = observation.steps, observation.momentum
        if steps == 1:
            return cls(observation.examples, (1.0,), False, observation.lr, m)
        whole = travelled(m, steps)
        shares = tuple(geometric(m, steps - step) / whole for step in range(steps))
        size = min(observation.batch_size, observation.examples)
        return cls(size, shares, size == observation.examples, observation.lr, m)

    def errors(
        self, layers: Weights, inputs: Tensor, labels: Tensor, said: Sequence[Said] = ()
    ) -> list[Tensor]:
        """Each layer's part of the images (B, I) with `labels` in the signal's mean gradient, as errors (B, O).

        Images are given to steps by which of the weights explain best what is `said` of them. The weights move by the
        images that are given, so that images that are missing are missing there too.
        """
        target = functional.one_hot(labels, len(layers[-1][1])).to(inputs)
        if len(self.shares) == 1:
            outputs = outputs_of(layers, inputs)
            return errors_of(layers, outputs, (outputs[-1].softmax(1) - target) / self.size, said)
        total: list[Tensor] | None = None
        left = torch.ones(len(inputs), dtype=torch.bool)
        velocity: Weights | None = None
        for share in self.shares:
            outputs = outputs_of(layers, inputs)
            logit_errors = (outputs[-1].softmax(1) - target) / self.size
            weighed = [Said(each.errors / share, each.noise / share) for each in said]
            # An image of all steps has the sum of its errors said of it, one of a single step has its own.
            heard = [Said(each.errors, each.noise) for each in said] if self.again else weighed
            errors = errors_of(layers, outputs, logit_errors, heard)
            taken = left if self.again else self._taken(errors[0] * share, said, left)
            errors = [each * taken[:, None] for each in errors]
            total = [
                share * each if total is None else total[i] + share * each for i, each in enumerate(errors)
            ]
            left = left if self.again else left & ~taken
            layers, velocity = self._stepped(layers, inputs, outputs, errors, velocity)
        return total or []

    def _taken(self, errors: Tensor, said: Sequence[Said], left: Tensor) -> Tensor:
        """Which of the images that are `left` (B,) a step takes: those whose errors (B, O) it explains best."""
        if int(left.sum()) <= self.size:
            return left
        misses = (errors - said[0].errors).norm(dim=1) / said[0].errors.norm(dim=1) if said else errors.norm(dim=1)
        misses = torch.where(left, misses, torch.full_like(misses, torch.inf))
        chosen = misses.topk(self.size, largest=False).indices
        return torch.zeros_like(left).index_fill(0, chosen, True)

    def _stepped(
        self,
        layers: Weights,
        inputs: Tensor,
        outputs: Sequence[Tensor],
        errors: Sequence[Tensor],
        velocity: Weights | None,
    ) -> tuple[Weights, Weights]:
        """The weights after a step of SGD, and its momentum."""
        seen = [inputs, *(each.relu() for each in outputs[:-1])]
        moved = [(error.mT @ each, error.sum(0)) for error, each in zip(errors, seen, strict=True)]
        if velocity is not None:
            moved = [
                (new[0] + self.momentum * old[0], new[1] + self.momentum * old[1])
                for new, old in zip(moved, velocity, strict=True)
            ]
        after = [
            (weight - self.lr * step[0], bias - self.lr * step[1])
            for (weight, bias), step in zip(layers, moved, strict=True)
        ]
        return after, moved
