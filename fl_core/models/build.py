"""A network from its configuration: without values, and its starting weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fl_core.base.errors import InputError
from fl_core.base.types import ModelState
from fl_core.models.bottleneck import find_bottleneck, last_linear, narrow
from fl_core.models.config import ModelConfig
from fl_core.models.finetuning.adapters import LowRankLinear, adapt, adapters
from fl_core.models.finetuning.trainable import freeze, frozen_apart, trained_names
from fl_core.models.forward import predict
from fl_core.models.own import own_network
from fl_core.models.transformer import Tokens
from fl_core.models.zoo import architecture

_POSITIONS = 0.02
"""The standard deviation of a transformer's learned positions at the start; Dosovitskiy et al.'s."""


def build_model(config: ModelConfig) -> nn.Module:
    """The network without values: parameters live on the `meta` device until a `ModelState` is put in.

    Its BatchNorm layers are in the mode that `config.batch_norm` asks for, all others in evaluation mode. Its
    parameters are those that clients train; frozen ones are buffers. Global random state is untouched. Raises
    `InputError` where a network of the user's own cannot be built, and for layers and parameters that it lacks.
    """
    return _frozen(_prepared(_network(config, seed=0), config), config)


def check_batch(config: ModelConfig, images: int) -> None:
    """Raise `InputError` where BatchNorm can't normalise a batch of so many images by itself: one value a channel."""
    if config.batch_norm == "eval":
        return
    model = build_model(config)
    try:
        if config.kind == "own":  # Its code may read values, and on the meta device there are none.
            state = initial_state(config, torch.Generator().manual_seed(0))
            predict(model, state.with_own_buffers(), config.shape.empty(images, "cpu").zero_())
        else:
            model(config.shape.empty(images, "meta"))
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        many = f"{images} image{'s' if images > 1 else ''}"
        raise InputError(
            f"model.batch_norm = 'train': a batch of {many} of {config.shape.pixels} pixels leaves a BatchNorm layer "
            f"of {config.label} one value a channel, which has no spread; use batch_norm: eval, larger images, or "
            "batches of more images that leave no single one over."
        ) from error


def initial_state(config: ModelConfig, generator: torch.Generator) -> ModelState:
    """Starting weights (float32, CPU): `config.weights`, or drawn ones, the same for the same generator state.

    PyTorch's own defaults: uniform in +-1/sqrt(fan in) for convolutions and linear layers; He et al. (2015)
    normal, fan out, for the convolutions of `resnet18`, `resnet50` and `gn_resnet18`; uniform in +-0.5 for `lenet`, as
    in its paper, since sigmoids pass hardly any gradient at smaller weights. A network of the user's own has the values
    that its code gives it. A bottleneck and adapters are drawn last, so that with them the other weights are what they
    are without. A file of weights may lack them.
    """
    own = config.kind == "own"
    whole = _prepared(_network(config, seed=0), config)
    state = _own_state(config, generator) if own else _drawn(whole, config, generator)
    if config.weights is not None:
        state = config.weights.fill(state, whole, free=_added(whole))
    return frozen_apart(state, _frozen(whole, config))


@dataclass(frozen=True)
class Normalise:
    """A hook that hands pixels in [-1, 1] on to a network as (pixel - mean) / std of pixels in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:  # noqa: ARG002 - a hook's
        """Images (N, C, H, W) to images of the same shape."""
        images, *rest = inputs
        mean, std = (images.new_tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return ((images / 2 + 0.5 - mean) / std, *rest)


def _network(config: ModelConfig, seed: int) -> nn.Module:
    """The network as its code makes it, with its bottleneck; that and a network of the zoo have no values."""
    if config.kind == "own":
        network = own_network(config, seed)
    else:
        with torch.device("meta"):
            network = architecture(config)
    if config.bottleneck is not None:
        last = last_linear(network, config.shape.empty(1, "cpu").zero_()) if config.kind == "own" else None
        with torch.device("meta"):
            network = narrow(network, config.bottleneck, last)
    if config.lora is not None:
        with torch.device("meta"):
            network = adapt(network, config.lora)
    return network


def _prepared(network: nn.Module, config: ModelConfig) -> nn.Module:
    """The network without values, with its normalisation and its mode."""
    _empty(network)
    if config.mean is not None and config.std is not None:
        network.register_forward_pre_hook(Normalise(config.mean, config.std))
    network.eval()
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.train(config.batch_norm == "train")
    return network


def _frozen(network: nn.Module, config: ModelConfig) -> nn.Module:
    """The network, changed in place, whose parameters are those that clients train."""
    return freeze(network, trained_names(network, config.trainable))


def _empty(network: nn.Module) -> None:
    """Put parameters and buffers on the meta device; those that are one tensor under several names stay one."""
    made: dict[int, Tensor] = {}
    for module in network.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) not in made:
                made[id(parameter)] = nn.Parameter(
                    parameter.detach().to("meta"), requires_grad=parameter.requires_grad
                )
            setattr(module, name, made[id(parameter)])
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, buffer.to("meta"))


def _own_state(config: ModelConfig, generator: torch.Generator) -> ModelState:
    """The values that the user's own code gives its network, and drawn ones for a bottleneck."""
    network = _network(config, int(torch.randint(2**62, (), generator=generator)))
    # Every name, those too that are a second one of the same tensor.
    named = [
        *network.named_parameters(remove_duplicate=False),
        *network.named_buffers(remove_duplicate=False),
    ]
    given = {name: value.detach().clone() for name, value in named if not value.is_meta}
    return _drawn(_prepared(network, config), config, generator, given)


def _drawn(
    model: nn.Module,
    config: ModelConfig,
    generator: torch.Generator,
    given: Mapping[str, Tensor] | None = None,
) -> ModelState:
    """Values for every parameter and buffer: those `given` by name, and drawn ones."""
    given = dict(given or {})
    # An adapter begins as nothing (Hu et al. 2022).
    given |= {
        f"{layer}.up.weight": torch.zeros(model.get_parameter(f"{layer}.up.weight").shape)
        for layer in adapters(model)
    }
    parameters: dict[str, Tensor] = {}
    buffers: dict[str, Tensor] = {}
    added = _added(model)
    for prefix, module in sorted(model.named_modules(), key=lambda named: f"{named[0]}.".startswith(added)):
        start = f"{prefix}." if prefix else ""
        own = dict(module.named_parameters(recurse=False))
        drawn = (
            {}
            if all(f"{start}{name}" in given for name in own)
            else _values(module, config, generator, added=f"{prefix}.".startswith(added))
        )
        for name, parameter in own.items():
            value = given[f"{start}{name}"] if f"{start}{name}" in given else drawn[name]
            if value.shape != parameter.shape:
                raise AssertionError(f"{prefix}.{name}: {tuple(value.shape)} for {tuple(parameter.shape)}")
            parameters[f"{start}{name}"] = value
        for name, buffer in module.named_buffers(recurse=False):
            fill = torch.ones if name == "running_var" else torch.zeros
            there = given.get(f"{start}{name}")
            buffers[f"{start}{name}"] = fill(buffer.shape, dtype=buffer.dtype) if there is None else there
    ordered = {name: parameters[name] for name, _ in model.named_parameters()}
    return ModelState(parameters=ordered, buffers=buffers)


def _added(model: nn.Module) -> tuple[str, ...]:
    """How the names of what the configuration put into the network begin: its bottleneck, and its adapters."""
    found = find_bottleneck(model)
    bottleneck = () if found is None else (f"{found[0]}.",)
    return (*bottleneck, *(f"{layer}.{part}." for layer in adapters(model) for part in ("down", "up")))


def _values(
    module: nn.Module, config: ModelConfig, generator: torch.Generator, *, added: bool
) -> dict[str, Tensor]:
    """Drawn values by name; `added` to the network are a bottleneck and adapters."""
    if isinstance(module, Tokens):
        return {
            name: torch.randn(value.shape, generator=generator) * _POSITIONS
            for name, value in module.named_parameters(recurse=False)
        }
    if isinstance(module, nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm):
        ones = {"weight": torch.ones(module.weight.shape)}
        return ones | {"bias": torch.zeros(module.weight.shape)}
    if not isinstance(module, nn.Conv2d | nn.Linear | LowRankLinear):
        return {}
    shape = module.weight.shape
    fan_in = math.prod(shape[1:])
    if config.kind in ("resnet18", "resnet50", "gn_resnet18") and isinstance(module, nn.Conv2d):
        fan_out = shape[0] * math.prod(shape[2:])
        return {"weight": torch.randn(shape, generator=generator) * math.sqrt(2.0 / fan_out)}
    # A bottleneck and adapters have PyTorch's own default whatever the network.
    wide = config.kind == "lenet" and not added
    bound = 0.5 if wide else 1.0 / math.sqrt(fan_in)
    values = {"weight": _uniform(shape, bound, generator)}
    if module.bias is not None:
        values["bias"] = _uniform(module.bias.shape, bound, generator)
    return values


def _uniform(shape: torch.Size, bound: float, generator: torch.Generator) -> Tensor:
    return (torch.rand(shape, generator=generator) * 2.0 - 1.0) * bound
