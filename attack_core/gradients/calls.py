"""Calls of layers whose parameters' gradients follow from the call's input and the loss's gradient at its output.

These are linear layers, convolutions with zero padding given as numbers, and BatchNorm. Everything else is left to
`attack_core.gradients.tracing`, which knows nothing of layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.grad import conv1d_weight, conv3d_weight
from torch.nn.modules.batchnorm import _BatchNorm

from attack_core.gradients.convolutions import Geometry

_CONVOLUTIONS: Mapping[type[nn.Module], int] = {nn.Conv1d: 3, nn.Conv2d: 4, nn.Conv3d: 5}
"""The axes of a batch."""


@dataclass(frozen=True)
class Call:
    """One call of a layer: input (N, ...) and output (N, ...), N of which belong to the candidates one after the other.

    `name` is the layer's dotted name; `names` gives for each of its parameters the name in the state, which is another
    module's where the parameter is tied. `statistics` are the mean and variance that BatchNorm in eval mode used.
    """

    name: str
    module: nn.Module
    names: Mapping[str, str]
    input: Tensor
    output: Tensor
    statistics: tuple[Tensor, Tensor] | None = None

    def has_factors(self, error: Tensor, candidates: int) -> bool:
        """Whether the weight's gradient is left as a product of errors and inputs: a linear layer's, a convolution's.

        A convolution's where it makes so few pixels that inner products by way of them are less work.
        """
        if "weight" not in self.names:
            return False
        if not isinstance(self.module, nn.Conv2d) or self.module.groups > 1:
            return isinstance(self.module, nn.Linear)
        rows = error.numel() // (candidates * error.shape[1])
        outputs, inputs = error.shape[1], self.module.weight[0].numel()
        return rows**2 * (outputs + inputs) <= outputs * inputs

    def factors(self, error: Tensor, candidates: int) -> tuple[Tensor, Tensor]:
        """Errors (C, R, O) and inputs (C, R, I), one row for each vector that the layer was given.

        A convolution was given what its kernel met at each place, with the channels last.
        """
        if isinstance(self.module, nn.Conv2d):
            met = Geometry.of(self.module).patches(self.input, error.shape)
            errors = error.movedim(1, -1).reshape(len(met), -1)
            return errors.unflatten(0, (candidates, -1)), met.unflatten(0, (candidates, -1))
        return tuple(_rows(each, candidates) for each in (error, self.input))  # type: ignore[return-value]

    def gradients(self, error: Tensor, candidates: int, *, weight: bool) -> dict[str, Tensor]:
        """The gradients (C, ...) of its parameters, by their own names; that of the `weight` where it is asked for."""
        error = error.unflatten(0, (candidates, -1))
        others = (1, *range(3, error.dim()))
        found = {}
        if "bias" in self.names:
            found["bias"] = (
                error.flatten(1, -2).sum(1) if isinstance(self.module, nn.Linear) else error.sum(others)
            )
        if not weight or "weight" not in self.names or isinstance(self.module, nn.Linear):
            return found
        inputs = self.input.unflatten(0, (candidates, -1))
        if isinstance(self.module, _BatchNorm):
            found["weight"] = (error * self._normalised(inputs, others)).sum(others)
        else:
            found["weight"] = _convolution_gradient(self.module, inputs, error)
        return found

    def _normalised(self, inputs: Tensor, others: tuple[int, ...]) -> Tensor:
        """The inputs (C, B, channels, ...) less their mean, over their deviation: each candidate's own, or stored."""
        eps = cast("_BatchNorm", self.module).eps
        if self.statistics is None:
            mean = inputs.mean(others, keepdim=True)
            variance = inputs.var(others, unbiased=False, keepdim=True)
            normalised: Tensor = (inputs - mean) / torch.sqrt(variance + eps)
            return normalised
        mean, variance = (value.view(-1, *[1] * (inputs.dim() - 3)) for value in self.statistics)
        return (inputs - mean) / torch.sqrt(variance + eps)


def normalises_by_batch(module: _BatchNorm) -> bool:
    """Whether BatchNorm uses the batch's own statistics: in train mode, or where it keeps none."""
    return module.training or module.running_mean is None


def has_closed_form(module: nn.Module) -> bool:
    """Whether calls of this layer, on a batch as it expects it, can be a `Call`."""
    if {"forward", "_conv_forward"} & vars(module).keys():
        return False  # Somebody has given this one layer another function.
    own = {kind for kind, value in module._parameters.items() if value is not None}
    # Where a parametrisation computes the weight, it is no parameter of the layer.
    if "weight" not in own or not own <= {"weight", "bias"}:
        return False
    kind = type(module)
    if isinstance(module, nn.Linear):
        return kind.forward is nn.Linear.forward
    if isinstance(module, _BatchNorm):
        return kind.forward is _BatchNorm.forward
    for base in _CONVOLUTIONS:
        if isinstance(module, base):
            plain = kind.forward is base.forward and kind._conv_forward is base._conv_forward  # type: ignore[attr-defined]
            return plain and module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return False


def is_plain_call(module: nn.Module, arguments: tuple[object, ...]) -> bool:
    """Whether the layer was called with one batch, whose first axis is not one of the layer's own."""
    if len(arguments) != 1 or not isinstance(arguments[0], Tensor):
        return False
    axes = arguments[0].dim()
    if isinstance(module, nn.Linear | _BatchNorm):
        return axes >= 2
    return axes == next(wanted for base, wanted in _CONVOLUTIONS.items() if isinstance(module, base))


def _rows(values: Tensor, candidates: int) -> Tensor:
    rows: Tensor = values.unflatten(0, (candidates, -1)).flatten(1, -2)
    return rows


def _convolution_gradient(module: nn.Module, inputs: Tensor, error: Tensor) -> Tensor:
    """(C, O, I, ...) from inputs (C, B, I, ...) and errors (C, B, O, ...)."""
    if isinstance(module, nn.Conv2d):
        return Geometry.of(module).weight_gradients(inputs, error)
    kernel: Callable[..., Tensor] = conv1d_weight if isinstance(module, nn.Conv1d) else conv3d_weight
    found: Tensor = torch.stack(
        [
            kernel(x, module.weight.shape, e, module.stride, module.padding, module.dilation, module.groups)
            for x, e in zip(inputs, error, strict=True)
        ]
    )
    return found
