"""A network of the user's own: built by the code that the configuration names, and checked."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from fl_core.base.errors import InputError, first_line, unknown_name
from fl_core.base.own_code import OwnCode
from fl_core.models.config import ModelConfig

_FACTORY = "a function that returns a torch.nn.Module, or a class of them"


def own_network(config: ModelConfig, seed: int) -> nn.Module:
    """What `config.factory` returns when it is called with `config.args`, in float32 on the CPU, with its own values.

    PyTorch's global random state is set to `seed` for the call and then put back. Raises `InputError` where the call
    fails, returns no network, or returns one that does not turn a picture into one logit for each class.
    """
    factory = config.factory
    if factory is None:
        raise AssertionError("kind: own has a factory")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = made_by(factory, config.args or {}, where="model.args")
    for name, value in [*network.named_parameters(), *network.named_buffers()]:
        if value.is_floating_point() and value.dtype != torch.float32:
            raise InputError(f"{factory.place}: {name} is {value.dtype}; must be torch.float32.")
    if not any(True for _ in network.parameters()):
        raise InputError(f"{factory.place} returned a network without parameters, which has no gradients.")
    _check_logits(network, config)
    return network


def made_by(factory: OwnCode, args: dict[str, Any], *, where: str) -> nn.Module:
    """What the user's code returns when it is called with `args`, which `where` names in messages.

    Raises `InputError` for other arguments than it takes, and where it fails or returns no network.
    """
    make = factory.callable(_FACTORY)
    _check_args(factory.place, make, args, where)
    with factory.blamed(f"when it was called with {args}"):
        network = make(**args)
    if not isinstance(network, nn.Module):
        raise InputError(f"{factory.place} returned {type(network).__name__}: must be a torch.nn.Module.")
    return network


def _check_args(place: str, make: object, args: dict[str, Any], where: str) -> None:
    """Raise `InputError` for an argument that the function does not take, and for one that it lacks."""
    try:
        signature = inspect.signature(make)  # type: ignore[arg-type]  # a callable
    except (TypeError, ValueError):
        return
    taken = signature.parameters
    open_ended = any(each.kind is each.VAR_KEYWORD for each in taken.values())
    for name in args:
        if name not in taken and not open_ended:
            raise unknown_name(f"{where} of {place}:", name, taken)
    try:
        signature.bind(**args)
    except TypeError as error:
        raise InputError(f"{place}: {first_line(error)}; give it in {where}.") from error


@torch.no_grad()
def _check_logits(network: nn.Module, config: ModelConfig) -> None:
    """Raise `InputError` unless a picture becomes one logit for each class."""
    if config.factory is None:
        return
    was, shape = network.training, config.shape
    with torch.random.fork_rng(devices=[]), config.factory.blamed(f"on a picture of {shape}"):
        logits = network.eval()(torch.zeros(1, *shape.size))
    network.train(was)
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != 1:
        what = (
            f"a tensor of shape {tuple(logits.shape)}"
            if isinstance(logits, Tensor)
            else type(logits).__name__
        )
        raise InputError(
            f"{config.factory.place} turns one picture into {what}; must be logits of shape (1, classes)."
        )
    if config.classes is not None and logits.shape[1] != config.classes:
        raise InputError(
            f"{config.factory.place} has {logits.shape[1]} outputs for {config.classes} classes; make it return "
            f"{config.classes}, by model.args where it takes them, or set model.classes to {logits.shape[1]}."
        )
