"""Refinement of the analytic answer by the gradients of the layers in front of the fully connected ones.

The errors at the features are known exactly once the fully connected layers are solved, without labels or softmax, so
each earlier weight gradient is a known linear map of the activations that it multiplies (the observation of Eltaras et
al. 2025, arXiv:2509.18871). These equations are matched together with the features. Where activations are smooth they
add what the features lack; behind ReLUs and pooling the map depends on which units are on, and the features alone
already say that better (docs/attacks.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attack_core.fc.head import Head, Prefix
from fl_core.base.decibels import TINY
from fl_core.base.types import ModelState, Tensors


@dataclass(frozen=True)
class NextLayer:
    """The layer that sees the features: `weight` (O, I), `bias` (O,), and its known outputs (O,) behind a ReLU."""

    weight: Tensor
    bias: Tensor
    outputs: Tensor

    def missed(self, features: Tensor) -> Tensor:
        """The squared distance (n,) of what the layer makes of `features` (n, I) from its outputs, over their square.

        Of outputs that the ReLU cut off, only what exceeds 0 counts.
        """
        found = features @ self.weight.mT + self.bias
        missed = torch.where(self.outputs > 0, found - self.outputs, found.clamp_min(0.0))
        return missed.square().sum(1) / self.outputs.square().sum().clamp_min(TINY)


@dataclass(frozen=True)
class Features:
    """What is known of a layer's inputs: `inputs` (B, I), but of those marked by `unknown` (I,) no more than a ceiling.

    `ceiling` bounds the absolute value of an unknown one. `following` is what the next layer says of them, for a
    single image; it counts where some are unknown.
    """

    inputs: Tensor
    unknown: Tensor | None = None
    ceiling: float = 0.0
    following: NextLayer | None = None

    def missed(self, features: Tensor) -> Tensor:
        """The squared distance () of `features` (B, I) from what is known of all of them, over its square."""
        if len(self.inputs) == 1:
            return self.missed_each(features)[0]
        squares, whole = self._squares(features), self._whole()
        return squares.sum() / whole.sum().clamp_min(TINY)

    def missed_each(self, features: Tensor) -> Tensor:
        """The squared distance (B,) of each of the `features` (B, I) from what is known of it, over its square."""
        missed = self._squares(features) / self._whole().clamp_min(TINY)
        return missed if self.following is None else missed + self.following.missed(features)

    def _squares(self, features: Tensor) -> Tensor:
        if self.unknown is None:
            return (features - self.inputs).square().sum(1)
        known = ~self.unknown
        missed = (features - self.inputs)[:, known].square().sum(1)
        if math.isfinite(self.ceiling):
            beyond = (features[:, self.unknown].abs() - self.ceiling).clamp_min(0.0)
            missed = missed + beyond.square().sum(1)
        return missed

    def _whole(self) -> Tensor:
        known = self.inputs if self.unknown is None else self.inputs[:, ~self.unknown]
        return known.square().sum(1)


def feature_mismatch(prefix: Callable[[Tensor], Tensor], features: Features) -> Callable[[Tensor], Tensor]:
    """From images (B, 3, S, S) to how much their features, which `prefix` gives, miss what is known of them."""
    return lambda images: features.missed(prefix(images))


def equations_mismatch(
    model: nn.Module, state: ModelState, head: Head, gradients: Tensors, known: Features, errors: Tensor
) -> Callable[[Tensor], Tensor]:
    """`feature_mismatch` plus the relative squared distance of every earlier parameter's gradient.

    `known` inputs and `errors` (B, O) are those of the head's first layer.
    """
    earlier = {
        name: state.parameters[name].detach().clone().requires_grad_(True)
        for name in head.in_front(state.parameters)
    }
    moving = ModelState(parameters={**state.parameters, **earlier}, buffers=state.buffers)
    prefix = Prefix(model, moving, head.first)
    back = errors @ state.parameters[f"{head.first}.weight"]
    squares = {name: gradients[name].square().sum().clamp_min(TINY) for name in earlier}

    def mismatch(images: Tensor) -> Tensor:
        features = prefix(images)
        # What the features don't use, as a layer that is not called, has a gradient of zeros.
        found = torch.autograd.grad(
            (features * back).sum(), list(earlier.values()), create_graph=True, materialize_grads=True
        )
        total = known.missed(features)
        for name, gradient in zip(earlier, found, strict=True):
            total = total + (gradient - gradients[name]).square().sum() / squares[name]
        return total

    return mismatch
