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
    whole: float = 0.5
    """An error decides where it is nearer than a quarter of the unit's whole error to that or to 0.

    Others are of units that were on for some of the steps alone. Not measured against other values.
    """


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
    return behind(layers, functional.linear(inputs, *layers[0]))


def behind(layers: Weights, first: Tensor) -> list[Tensor]:
    """The same from the first layer's output (B, O)."""
    found = [first]
    for weight, bias in layers[1:]:
        found.append(functional.linear(found[-1].relu(), weight, bias))
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
            sure = (gain.abs() > limits.nats) & (
                (2.0 * seen.errors - whole).abs() > limits.whole * whole.abs()
            )
            on = torch.where(sure, gain > 0, on)
        errors.insert(0, whole * on)
    return errors


@dataclass(frozen=True)
class Trained:
    """What images count in a signal: each layer's `errors` (B, O), and what it sees of them on average, `inputs`."""

    errors: list[Tensor]
    inputs: list[Tensor]


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

    def alone(self, layers: Weights, inputs: Tensor, labels: Tensor) -> Tensor:
        """The first layer's errors (B, O) that images (B, I) with `labels` (B,) have before the weights move."""
        outputs = outputs_of(layers, inputs)
        target = functional.one_hot(labels, outputs[-1].shape[1]).to(inputs)
        share = 1.0 if self.again else sum(self.shares) / len(self.shares)
        return errors_of(layers, outputs, (outputs[-1].softmax(1) - target) * (share / self.size))[0]

    def passed(self, layers: Weights, inputs: Tensor, labels: Tensor, said: Sequence[Said] = ()) -> Trained:
        """What all images of the signal, (B, I) with `labels` (B,), count in its mean gradient.

        Images are given to steps by which of the weights explain best what is `said` of them.
        """
        target = functional.one_hot(labels, len(layers[-1][1])).to(inputs)
        first = functional.linear(inputs, *layers[0])
        # By how much an image's error moves another's first output; the first layer's weights need not move for that.
        near = self.lr * (inputs @ inputs.mT + 1.0)
        left = torch.ones(len(inputs), dtype=torch.bool)
        total: Trained | None = None
        velocity: list[tuple[Tensor, Tensor]] | None = None
        for share in self.shares:
            outputs = behind(layers, first)
            part = share if not self.again else 1.0
            heard = [Said(each.errors / part, each.noise / part) for each in said]
            errors = errors_of(layers, outputs, (outputs[-1].softmax(1) - target) / self.size, heard)
            taken = left if self.again else self._taken(errors[0], heard, left)
            errors = [each * taken[:, None] for each in errors]
            weight = share if self.again else 1.0
            seen = [inputs, *(each.relu() for each in outputs[:-1])]
            counted = Trained(
                [share * each for each in errors], [weight * taken[:, None] * each for each in seen]
            )
            total = counted if total is None else _sum(total, counted)
            left = left if self.again else left & ~taken
            first, layers, velocity = self._stepped(first, layers, near, seen, errors, velocity)
        if total is None:
            raise AssertionError("training has a step")
        return total

    def _taken(self, errors: Tensor, said: Sequence[Said], left: Tensor) -> Tensor:
        """Which of the images that are `left` (B,) a step takes: those whose errors (B, O) it explains best."""
        if int(left.sum()) <= self.size or not said:
            return left
        misses = (errors - said[0].errors).norm(dim=1) / said[0].errors.norm(dim=1)
        misses = torch.where(left, misses, torch.full_like(misses, torch.inf))
        chosen = misses.topk(self.size, largest=False).indices
        return torch.zeros_like(left).index_fill(0, chosen, True)

    def _stepped(
        self,
        first: Tensor,
        layers: Weights,
        near: Tensor,
        seen: Sequence[Tensor],
        errors: Sequence[Tensor],
        velocity: list[tuple[Tensor, Tensor]] | None,
    ) -> tuple[Tensor, Weights, list[tuple[Tensor, Tensor]]]:
        """The first layer's outputs and the other layers' weights after a step of SGD, and its momentum."""
        moved = [(errors[0], errors[0].sum(0))]
        moved += [(error.mT @ each, error.sum(0)) for error, each in zip(errors[1:], seen[1:], strict=True)]
        if velocity is not None:
            m = self.momentum
            moved = [(a + m * c, b + m * d) for (a, b), (c, d) in zip(moved, velocity, strict=True)]
        after = [
            (weight - self.lr * step[0], bias - self.lr * step[1])
            for (weight, bias), step in zip(layers[1:], moved[1:], strict=True)
        ]
        return first - near @ moved[0][0], [layers[0], *after], moved


def _sum(one: Trained, other: Trained) -> Trained:
    return Trained(
        [a + b for a, b in zip(one.errors, other.errors, strict=True)],
        [a + b for a, b in zip(one.inputs, other.inputs, strict=True)],
    )
