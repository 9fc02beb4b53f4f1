"""Refinement of the analytic answer by the gradients of the layers in front of the fully connected ones.

The errors at the features are known exactly once the fully connected layers are solved, without labels or softmax, so
each earlier weight gradient is a known linear map of the activations that it multiplies (the observation of Eltaras et
al. 2025, arXiv:2509.18871). These equations are matched together with the features. Where activations are smooth they
add what the features lack; behind ReLUs and pooling the map depends on which units are on, and the features alone
already say that better (docs/attacks.md).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from attack_core.tail import Prefix, Tail
from fl_core.types import ModelState, Tensors

_TINY = 1e-30


def feature_mismatch(
    prefix: Prefix, inputs: Tensor, *, unknown: Tensor | None = None, ceiling: float = 0.0
) -> Callable[[Tensor], Tensor]:
    """From images (B, 3, S, S) to the squared distance of their features from `inputs` (B, I), relative.

    Of features marked by `unknown` (I,) only what exceeds `ceiling` in absolute value counts.
    """
    if unknown is None:
        square = inputs.square().sum()
        return lambda images: (prefix(images) - inputs).square().sum() / square
    square = inputs[:, ~unknown].square().sum()

    def mismatch(images: Tensor) -> Tensor:
        features = prefix(images)
        missed = (features - inputs)[:, ~unknown].square().sum()
        above = (features[:, unknown].abs() - ceiling).clamp_min(0.0).square().sum()
        return (missed + above) / square

    return mismatch


def equations_mismatch(
    model: nn.Module, state: ModelState, tail: Tail, gradients: Tensors, inputs: Tensor, errors: Tensor
) -> Callable[[Tensor], Tensor]:
    """`feature_mismatch` plus the relative squared distance of every earlier parameter's gradient.

    `inputs` (B, I) and `errors` (B, O) are those of the tail's first layer.
    """
    own = tuple(f"{layer}." for layer in tail.layers)
    earlier = {
        name: value.detach().clone().requires_grad_(True)
        for name, value in state.parameters.items()
        if not name.startswith(own)
    }
    moving = ModelState(parameters={**state.parameters, **earlier}, buffers=state.buffers)
    prefix = Prefix(model, moving, tail.first)
    back = errors @ state.parameters[f"{tail.first}.weight"]
    squares = {name: gradients[name].square().sum().clamp_min(_TINY) for name in earlier}
    square = inputs.square().sum()

    def mismatch(images: Tensor) -> Tensor:
        features = prefix(images)
        found = torch.autograd.grad((features * back).sum(), list(earlier.values()), create_graph=True)
        total = (features - inputs).square().sum() / square
        for name, gradient in zip(earlier, found, strict=True):
            total = total + (gradient - gradients[name]).square().sum() / squares[name]
        return total

    return mismatch
