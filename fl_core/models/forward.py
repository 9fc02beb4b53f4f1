"""Forward passes under given weights: of the whole network, and up to a layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fl_core.base.types import ModelState


def predict(model: nn.Module, state: ModelState, images: Tensor) -> Tensor:
    """Logits (B, classes) of `images` (B, 3, S, S) under `state`; BatchNorm in train mode changes its buffers."""
    logits: Tensor = torch.func.functional_call(model, {**state.parameters, **state.buffers}, (images,))
    return logits


def layer_input(model: nn.Module, state: ModelState, layer: str, images: Tensor) -> Tensor:
    """The inputs (B, I) of `layer` under `state` for `images` (B, 3, S, S), differentiable; what follows does not run.

    BatchNorm in train mode changes the buffers of `state`. Raises `AssertionError` for a layer that is not used.
    """

    def stop(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:  # noqa: ARG001 - a hook's signature
        raise _Reached(inputs[0])

    hook = model.get_submodule(layer).register_forward_pre_hook(stop)
    try:
        predict(model, state, images)
    except _Reached as reached:
        return reached.inputs
    finally:
        hook.remove()
    raise AssertionError(f"layer {layer!r} was not called")


class _Reached(Exception):
    """The layer's input is there; what follows need not run."""

    def __init__(self, inputs: Tensor) -> None:
        super().__init__()
        self.inputs = inputs
