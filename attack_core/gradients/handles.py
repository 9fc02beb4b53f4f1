"""Per-layer handles on the gradient that a candidate image would have caused.

One forward pass over all candidates records every layer's input; one backward pass to the layers' outputs
gives the error signals. From these two factors each parameter's gradient follows, still differentiable with
respect to the images. A linear layer's weight gradient is never formed: its inner products follow from the
factors alone (the idea of ghost clipping, Goodfellow 2015, arXiv:1510.01799; Li et al. 2022,
arXiv:2110.05679, applied to matching).

Axes: C candidates, B images each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from fl_core.base.errors import InputError
from fl_core.base.types import ModelState
from fl_core.models.forward import predict

LossOf = Callable[[Tensor], Tensor]
"""From logits (C, B, K) to each candidate's training loss (C,)."""


class GradientHandle(Protocol):
    """One parameter's gradient for every candidate, seen through what objectives need of it."""

    def squared_norm(self, mask: Tensor | None = None) -> Tensor:
        """Squared L2 norm, (C,), of the numbers where `mask`, of the parameter's shape, is 1; of all without one."""

    def dot(self, target: Tensor) -> Tensor:
        """Inner product with one target of the parameter's shape, (C,)."""

    def squared_distance(self, target: Tensor, target_square: Tensor) -> Tensor:
        """Squared L2 distance to the target, (C,); `target_square` () is the target's squared norm."""

    def dense(self) -> Tensor:
        """The gradient itself, (C, *parameter shape)."""


@dataclass(frozen=True)
class DenseHandle:
    """A gradient held as a tensor (C, *parameter shape)."""

    gradient: Tensor

    def squared_norm(self, mask: Tensor | None = None) -> Tensor:
        """See `GradientHandle`."""
        squares = self.gradient.flatten(1).square()
        return squares.sum(1) if mask is None else squares @ mask.flatten()

    def dot(self, target: Tensor) -> Tensor:
        """See `GradientHandle`."""
        return self.gradient.flatten(1) @ target.flatten()

    def squared_distance(self, target: Tensor, target_square: Tensor) -> Tensor:  # noqa: ARG002
        """See `GradientHandle`; the difference is taken directly, which keeps more digits."""
        return (self.gradient - target).flatten(1).square().sum(1)

    def dense(self) -> Tensor:
        """See `GradientHandle`."""
        return self.gradient


@dataclass(frozen=True)
class GhostHandle:
    """A linear layer's weight gradient, sum over b of error_b input_b^T, held as its two factors.

    `error` (C, B, O) and `input` (C, B, I). Exact: norms and inner products use the B x B Gram matrices.
    """

    error: Tensor
    input: Tensor

    def squared_norm(self, mask: Tensor | None = None) -> Tensor:
        """See `GradientHandle`."""
        if mask is not None:
            return self._masked_norm(mask)
        errors = self.error @ self.error.mT
        inputs = self.input @ self.input.mT
        return (errors * inputs).sum((1, 2))

    def _masked_norm(self, mask: Tensor) -> Tensor:
        """The sum over pairs of images b, c of (error_b error_c)^T mask (input_b input_c)."""
        batch = self.error.shape[1]
        total = self.error.new_zeros(len(self.error))
        for first in range(batch):
            for second in range(first, batch):
                errors = self.error[:, first] * self.error[:, second]
                inputs = self.input[:, first] * self.input[:, second]
                total = total + (1.0 if first == second else 2.0) * ((errors @ mask) * inputs).sum(1)
        return total

    def dot(self, target: Tensor) -> Tensor:
        """See `GradientHandle`."""
        return ((self.error @ target) * self.input).sum((1, 2))

    def squared_distance(self, target: Tensor, target_square: Tensor) -> Tensor:
        """See `GradientHandle`."""
        return self.squared_norm() - 2.0 * self.dot(target) + target_square

    def dense(self) -> Tensor:
        """See `GradientHandle`."""
        return self.error.mT @ self.input


@dataclass(frozen=True)
class Trace:
    """One layer's call: module, dotted name, input (N, ...) and output (N, ...)."""

    name: str
    module: nn.Module
    input: Tensor
    output: Tensor


def gradient_handles(
    model: nn.Module, state: ModelState, images: Tensor, loss_of: LossOf, *, ghost: bool = True
) -> dict[str, GradientHandle]:
    """Handles by parameter name, in the model's own order, for candidate images (C, B, 3, S, S).

    Differentiable with respect to `images` and whatever `loss_of` closes over. `ghost=False` forms the linear
    layers' gradients too (the plain form, for comparison). Raises `InputError` for a model with a parametrised
    layer that is neither linear, convolution nor BatchNorm, or that is called twice.
    """
    traces, errors = trace(model, state, images, loss_of)
    found: dict[str, GradientHandle] = {}
    for layer, error in zip(traces, errors, strict=True):
        found.update(_layer_handles(layer, error, state, ghost=ghost))
    missing = [name for name in state.parameters if name not in found]
    if missing:
        raise InputError(
            f"The attack cannot follow parameter {missing[0]!r}: its layer was not called as expected."
        )
    return {name: found[name] for name in state.parameters}


def stack_handles(each: Sequence[Mapping[str, GradientHandle]]) -> dict[str, GradientHandle]:
    """One handle over all candidates for each parameter, from handles over some of them each."""
    stacked: dict[str, GradientHandle] = {}
    for name in each[0]:
        parts = [handles[name] for handles in each]
        ghosts = [part for part in parts if isinstance(part, GhostHandle)]
        if len(ghosts) == len(parts):
            stacked[name] = GhostHandle(
                torch.cat([ghost.error for ghost in ghosts]), torch.cat([ghost.input for ghost in ghosts])
            )
        else:
            stacked[name] = DenseHandle(torch.cat([part.dense() for part in parts]))
    return stacked


def trace(
    model: nn.Module, state: ModelState, images: Tensor, loss_of: LossOf
) -> tuple[list[Trace], list[Tensor]]:
    """Every parametrised layer's call with axes (C, B, ...), and the loss's gradient at its output."""
    candidates, batch = images.shape[:2]
    if couples_examples(model):
        return _trace_one_by_one(model, state, images, loss_of)
    with _recording(model) as calls:
        logits = predict(model, state, images.flatten(0, 1))
    losses = loss_of(logits.unflatten(0, (candidates, batch)))
    errors = torch.autograd.grad(losses.sum(), [call.output for call in calls], create_graph=True)
    return [_unflatten(call, candidates) for call in calls], [
        e.unflatten(0, (candidates, -1)) for e in errors
    ]


def couples_examples(model: nn.Module) -> bool:
    """Whether one image's activations depend on the others' in the batch (BatchNorm in train mode)."""
    return any(isinstance(module, nn.BatchNorm2d) and module.training for module in model.modules())


def _trace_one_by_one(
    model: nn.Module, state: ModelState, images: Tensor, loss_of: LossOf
) -> tuple[list[Trace], list[Tensor]]:
    runs: list[list[Trace]] = []
    logits = []
    for candidate in images:
        with _recording(model) as calls:
            logits.append(predict(model, state.with_own_buffers(), candidate))
        runs.append(calls)
    total = loss_of(torch.stack(logits)).sum()
    outputs = [call.output for run in runs for call in run]
    errors = torch.autograd.grad(total, outputs, create_graph=True)
    layers = len(runs[0])
    stacked = [
        Trace(
            name=runs[0][i].name,
            module=runs[0][i].module,
            input=torch.stack([run[i].input for run in runs]),
            output=torch.stack([run[i].output for run in runs]),
        )
        for i in range(layers)
    ]
    return stacked, [torch.stack(errors[i::layers]) for i in range(layers)]


@contextmanager
def _recording(model: nn.Module) -> Iterator[list[Trace]]:
    calls: list[Trace] = []

    def keep(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if any(call.name == name for call in calls):
            raise InputError(f"The attack cannot follow layer {name!r}: it is called twice in one pass.")
        calls.append(Trace(name, module, inputs[0], output))
        # The network goes on with a copy, so that what it does in place leaves the recorded output alone.
        return output.clone()

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if not any(True for _ in module.parameters(recurse=False)):
                continue
            if not isinstance(module, nn.Linear | nn.Conv2d | nn.BatchNorm2d):
                raise InputError(f"The attack cannot follow layer {name!r} of type {type(module).__name__}.")
            hooks.callback(module.register_forward_hook(partial(keep, name)).remove)
        yield calls


def _unflatten(call: Trace, candidates: int) -> Trace:
    return Trace(
        name=call.name,
        module=call.module,
        input=call.input.unflatten(0, (candidates, -1)),
        output=call.output.unflatten(0, (candidates, -1)),
    )


def _layer_handles(
    layer: Trace, error: Tensor, state: ModelState, *, ghost: bool
) -> dict[str, GradientHandle]:
    module, weight, bias = layer.module, f"{layer.name}.weight", f"{layer.name}.bias"
    handles: dict[str, GradientHandle] = {}
    if isinstance(module, nn.Linear):
        factors = GhostHandle(error, layer.input)
        handles[weight] = factors if ghost else DenseHandle(factors.dense())
        if module.bias is not None:
            handles[bias] = DenseHandle(error.sum(1))
    elif isinstance(module, nn.Conv2d):
        handles[weight] = DenseHandle(_conv_weight_gradient(module, layer.input, error))
        if module.bias is not None:
            handles[bias] = DenseHandle(error.sum((1, 3, 4)))
    elif isinstance(module, nn.BatchNorm2d):
        normalised = _normalised(module, layer, state)
        handles[weight] = DenseHandle((error * normalised).sum((1, 3, 4)))
        handles[bias] = DenseHandle(error.sum((1, 3, 4)))
    return handles


def _conv_weight_gradient(module: nn.Conv2d, inputs: Tensor, error: Tensor) -> Tensor:
    """(C, O, I, h, w) from inputs (C, B, I, H, W) and errors (C, B, O, H', W')."""
    if module.padding_mode != "zeros" or isinstance(module.padding, str):
        raise InputError("The attack follows convolutions whose padding is zeros and given as numbers.")
    # The library's kernel for each candidate: measured faster than unfold and one batched product, and
    # without the ninefold copy of the activations.
    return torch.stack(
        [
            conv2d_weight(
                x, module.weight.shape, e, module.stride, module.padding, module.dilation, module.groups
            )
            for x, e in zip(inputs, error, strict=True)
        ]
    )


def _normalised(module: nn.BatchNorm2d, layer: Trace, state: ModelState) -> Tensor:
    if module.training:
        mean = layer.input.mean((1, 3, 4), keepdim=True)
        variance = layer.input.var((1, 3, 4), unbiased=False, keepdim=True)
    else:
        mean = state.buffers[f"{layer.name}.running_mean"][:, None, None]
        variance = state.buffers[f"{layer.name}.running_var"][:, None, None]
    return (layer.input - mean) / torch.sqrt(variance + module.eps)
