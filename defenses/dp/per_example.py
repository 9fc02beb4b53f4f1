"""The gradient of every example of a batch by itself, and their sum with each one bounded."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from fl_core.base.decibels import FAR
from fl_core.base.device import out_of_memory
from fl_core.base.errors import InputError
from fl_core.base.types import ModelState, Tensors
from fl_core.federation.client import Batch

MOST_BYTES = 2**28
"""Of the gradients that are held together; with it memory follows from the model and not from the batch."""
MOST_EXAMPLES = 64
"""That go through the network together, however small their gradients."""


def check_per_example(model: nn.Module) -> None:
    """Refuse a network in which one image's output depends on the others of its batch (`InputError`)."""
    for name, module in model.named_modules():
        if not isinstance(module, _BatchNorm):
            continue
        none_kept = module.running_mean is None
        if none_kept or module.training:
            setting = "track_running_stats = False" if none_kept else "batch_norm = 'train'"
            remedy = "running statistics" if none_kept else "model.batch_norm: eval"
            raise InputError(
                f"{setting}: layer {name} normalises by the batch, so that no example has a gradient of its own to "
                f"clip; per-example differential privacy needs {remedy}, or GroupNorm."
            )


def example_gradients(model: nn.Module, state: ModelState, batch: Batch) -> dict[str, Tensor]:
    """The gradient (B, *shape) of each example's cross-entropy, by parameter name; `state` stays as it is.

    All at once, or one after another where the network does something that cannot be done for all at once, such as a
    choice that depends on values.
    """

    def loss(parameters: Tensors, image: Tensor, label: Tensor) -> Tensor:
        logits = functional_call(model, {**parameters, **state.buffers}, (image[None],))
        return functional.cross_entropy(logits, label[None])

    parameters = {name: value.detach() for name, value in state.parameters.items()}
    try:
        gradients: dict[str, Tensor] = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, *batch)
    except RuntimeError as error:
        if out_of_memory(error):
            raise
        single = [_one_gradient(loss, parameters, image, label) for image, label in zip(*batch, strict=True)]
        gradients = {name: torch.stack([each[name] for each in single]) for name in parameters}
    return gradients


def _one_gradient(
    loss: Callable[[Tensors, Tensor, Tensor], Tensor], parameters: Tensors, image: Tensor, label: Tensor
) -> dict[str, Tensor]:
    with torch.enable_grad():
        held = {name: value.detach().clone().requires_grad_(True) for name, value in parameters.items()}
        found = torch.autograd.grad(loss(held, image, label), list(held.values()), materialize_grads=True)
    return dict(zip(held, found, strict=True))


def clipped_sum(
    model: nn.Module, state: ModelState, batch: Batch, max_norm: float
) -> tuple[dict[str, Tensor], Tensor]:
    """The sum of the examples' gradients, each scaled to an L2 norm of at most `max_norm`, and the factors (B,).

    A gradient that holds NaN or infinity, which no factor bounds, counts as zeros, with a factor of 0. In chunks, so
    that memory stays within what `MOST_BYTES` says, whatever the batch.
    """
    total = {name: torch.zeros_like(value) for name, value in state.parameters.items()}
    factors = []
    for chunk in _chunks(state.parameters, batch):
        gradients = example_gradients(model, state, chunk)
        unit, finite = _units(gradients)
        for name, value in gradients.items():
            gradients[name] = torch.where(_beside(finite, value), value / _beside(unit, value), 0.0)
        squares = torch.stack([value.flatten(1).square().sum(1) for value in gradients.values()]).sum(0)
        # A gradient of zeros has an infinite factor here.
        kept = torch.minimum(unit, max_norm / squares.sqrt())
        for name, value in gradients.items():
            total[name] += torch.tensordot(kept, value, dims=1)
        factors.append(torch.where(finite, kept / unit, 0.0))
    return total, torch.cat(factors)


def _units(gradients: Tensors) -> tuple[Tensor, Tensor]:
    """A unit for each example (B,), and which of the examples (B,) are finite.

    A unit is a power of two near the example's largest number: dividing by it is exact, and squares then stay within
    float32's range.
    """
    largest = torch.stack([value.flatten(1).abs().amax(1) for value in gradients.values()]).amax(0)
    finite = largest.isfinite()
    power = torch.frexp(torch.where(finite, largest, 1.0).cpu())[1].clamp(-FAR, FAR)
    return torch.ldexp(torch.ones(len(power)), power).to(largest), finite


def _beside(each: Tensor, value: Tensor) -> Tensor:
    """What holds for each example (B,), in the shape that broadcasts over `value` (B, *shape)."""
    return each.view(-1, *[1] * (value.dim() - 1))


def _chunks(parameters: Mapping[str, Tensor], batch: Batch) -> Iterator[Batch]:
    size = sum(value.numel() * value.element_size() for value in parameters.values())
    together = max(1, min(MOST_EXAMPLES, math.floor(MOST_BYTES / size)))
    return zip(batch[0].split(together), batch[1].split(together), strict=True)
