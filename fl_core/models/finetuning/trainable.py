"""Which parameters clients train and send. The others are frozen: everybody knows them, and nobody sends them.

A frozen parameter becomes a buffer of the same name. So a network's parameters are what clients train, wherever they
are asked for: in the update, in the noise of a defense, in the bytes on the wire.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, TypeVar

from fl_core.base.errors import InputError, listed
from fl_core.base.types import ModelState

if TYPE_CHECKING:
    from torch import nn

_FROZEN = "_frozen_parameters"
"""The attribute of a network that holds its frozen parameters: each name, and the first name of the same tensor."""

Value = TypeVar("Value")


def trained_names(model: nn.Module, patterns: Collection[str] | None) -> set[str]:
    """The names of the parameters that clients train.

    Those that `patterns` fit and those of adapters. With neither: all that require a gradient. Raises `InputError` for
    a pattern that fits no parameter, and where nothing is trained.
    """
    from fl_core.models.finetuning.adapters import adapters, fitting

    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    own = {f"{layer}.{part}.weight" for layer in adapters(model) for part in ("down", "up")}
    if patterns is None and not own:
        own = requiring_gradient(model)
        if not own:
            raise InputError(
                "No parameter of the network requires a gradient, so clients train nothing; name what they train in "
                f"model.trainable. It has {listed(names)}."
            )
        return own
    return own.union(fitting(patterns or (), names, where="model.trainable", what="parameter"))


def requiring_gradient(model: nn.Module) -> set[str]:
    """The names of the parameters that require a gradient, every name of tied ones."""
    return {name for name, value in model.named_parameters(remove_duplicate=False) if value.requires_grad}


def freeze(model: nn.Module, trained: Collection[str]) -> nn.Module:
    """`model`, changed in place, with every parameter that is not `trained` as a buffer of the same name.

    A tensor under several names, as tied weights are, is trained where one of its names is.
    """
    named = list(model.named_parameters(remove_duplicate=False))
    kept = {id(value) for name, value in named if name in trained}
    first: dict[int, str] = {}
    frozen = {name: first.setdefault(id(value), name) for name, value in named if id(value) not in kept}
    for name in frozen:
        parent, _, own = name.rpartition(".")
        module = model.get_submodule(parent)
        value = getattr(module, own)
        delattr(module, own)
        module.register_buffer(own, value.detach())
    setattr(model, _FROZEN, frozen)
    return model


def frozen_parameters(model: nn.Module) -> Mapping[str, str]:
    """The names of the buffers that are frozen parameters, each with the first name of the same tensor."""
    found: Mapping[str, str] = getattr(model, _FROZEN, {})
    return found


def without_frozen(model: nn.Module, buffers: Mapping[str, Value]) -> dict[str, Value]:
    """Those of `buffers` that training may change: not the frozen parameters."""
    frozen = frozen_parameters(model)
    return {name: value for name, value in buffers.items() if name not in frozen}


def frozen_apart(state: ModelState, model: nn.Module) -> ModelState:
    """`state` of a network before `freeze` as that of `model`, after it: frozen parameters are among the buffers."""
    frozen = frozen_parameters(model)
    moved = {name: state.parameters[first] for name, first in frozen.items()}
    return ModelState(
        parameters={name: value for name, value in state.parameters.items() if name not in frozen},
        buffers={**state.buffers, **moved},
    )
