"""Forward passes under given weights: of the whole network, and up to a layer."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from fl_core.base.types import ModelState

if TYPE_CHECKING:
    from torch import Tensor, nn


def predict(model: nn.Module, state: ModelState, images: Tensor) -> Tensor:
    """Logits (B, classes) of `images` (B, 3, S, S) under `state`; BatchNorm in train mode changes its buffers."""
    import torch

    logits: Tensor = torch.func.functional_call(model, {**state.parameters, **state.buffers}, (images,))
    return logits


def laid_out(model: nn.Module, images: Tensor) -> Tensor:
    """The same images (B, C, H, W) in the layout in memory that trains `model` in the least time; rounding follows it.

    That is channels last for several images on a CPU and a plain sequence of layers that averages neighbours: the
    library's average pooling takes a fifth of the time there, and nothing else takes more. With maxima or BatchNorm the
    other layout is the faster one (docs/decisions, 0110), and a network of other code may count on it.
    """
    import torch

    averages = isinstance(model, torch.nn.Sequential) and any(
        isinstance(layer, torch.nn.AvgPool2d) for layer in model
    )
    several = images.device.type == "cpu" and images.dim() == 4 and len(images) > 1
    return images.contiguous(memory_format=torch.channels_last) if averages and several else images


def changes_statistics(model: nn.Module) -> bool:
    """Whether a forward pass changes running statistics: whether a BatchNorm layer that keeps some is in train mode."""
    from torch.nn.modules.batchnorm import _BatchNorm

    return any(
        isinstance(module, _BatchNorm) and module.training and module.track_running_stats
        for module in model.modules()
    )


def layer_input(model: nn.Module, state: ModelState, layer: str, images: Tensor) -> Tensor:
    """The inputs (B, I) of `layer`; see `layer_inputs`."""
    return layer_inputs(model, state, (layer,), images)[0]


def layer_inputs(
    model: nn.Module, state: ModelState, layers: Sequence[str], images: Tensor
) -> tuple[Tensor, ...]:
    """The inputs (B, ...) of each of `layers` under `state` for `images` (B, 3, S, S), differentiable.

    What follows the last of them does not run. BatchNorm in train mode changes the buffers of `state`. Raises
    `AssertionError` for a layer that is not used.
    """
    found: dict[str, Tensor] = {}

    def note(name: str, inputs: Tensor) -> None:
        found[name] = inputs
        if len(found) == len(layers):
            raise _Reached

    with ExitStack() as hooks:
        for name in layers:
            hook = model.get_submodule(name).register_forward_pre_hook(
                lambda module, inputs, name=name: note(name, inputs[0])  # noqa: ARG005 - a hook's signature
            )
            hooks.callback(hook.remove)
        try:
            predict(model, state, images)
        except _Reached:
            return tuple(found[name] for name in layers)
    raise AssertionError(f"layers {sorted(set(layers) - found.keys())} were not called")


class _Reached(Exception):
    """The layers' inputs are there; what follows need not run."""
