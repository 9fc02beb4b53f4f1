"""A variational bottleneck (Alemi et al. 2017, arXiv:1612.00410): features through a narrow Gaussian code and back."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from fl_core.base.errors import InputError
from fl_core.base.rng import Random, normal
from fl_core.base.types import ModelState


class Bottleneck(nn.Module):
    """From features (N, I) to features (N, I), through a code of `size` numbers.

    `encoder` gives each number's mean and, by a softplus, its standard deviation; `decoder` maps the code back. `noise`
    (N, size) is a standard normal draw that a forward pass gets as a buffer; without one the code is its mean.
    """

    noise: Tensor | None

    def __init__(self, features: int, size: int) -> None:
        super().__init__()
        self.encoder = nn.Linear(features, 2 * size)
        self.decoder = nn.Linear(size, features)
        self.register_buffer("noise", None)

    def forward(self, features: Tensor) -> Tensor:
        """See the class."""
        mean, deviation = code_of(self.encoder(features))
        code = mean if self.noise is None else mean + deviation * self.noise
        decoded: Tensor = self.decoder(code)
        return decoded


def code_of(statistics: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the code, each (..., size), from the encoder's outputs (..., 2 size)."""
    mean, raw = statistics.chunk(2, dim=-1)
    return mean, functional.softplus(raw)


def divergence(statistics: Tensor) -> Tensor:
    """KL divergence (...) of the code's distribution from the standard normal one, in nats."""
    mean, deviation = code_of(statistics)
    return 0.5 * (mean.square() + deviation.square() - 1.0).sum(-1) - deviation.log().sum(-1)


@torch.no_grad()
def last_linear(model: nn.Module, images: Tensor) -> str:
    """The dotted name of the fully connected layer that is called last for `images`; empty where there is none.

    It need not be the one that was made last. Modes stay as they are.
    """
    called: list[str] = []

    def note(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda module, inputs: called.append(name)  # noqa: ARG005 - a hook's signature

    modes = {module: module.training for module in model.modules()}
    with ExitStack() as undone:
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear):
                undone.callback(module.register_forward_pre_hook(note(name)).remove)
        model.eval()(images)
    for module, training in modes.items():
        module.training = training
    return called[-1] if called else ""


def narrow(model: nn.Module, size: int, name: str | None = None) -> nn.Module:
    """`model` with a bottleneck of `size` numbers in front of its last fully connected layer; it is changed in place.

    That is the layer `name`, or the one that was made last. In a `Sequential` the bottleneck is the entry before the
    layer, called `bottleneck`; elsewhere the two take the layer's place, as `bottleneck` and `last`. Raises
    `InputError` for a network without such a layer.
    """
    if name is None:
        linear = [each for each, module in model.named_modules() if isinstance(module, nn.Linear)]
        name = linear[-1] if linear else ""
    if not name:
        raise InputError(
            "model.bottleneck: the network has no fully connected layer that a bottleneck could precede."
        )
    parent, _, name = name.rpartition(".")
    owner = model.get_submodule(parent)
    last = owner.get_submodule(name)
    if not isinstance(last, nn.Linear):
        raise AssertionError("the last layer is linear")
    bottleneck = Bottleneck(last.in_features, size)
    if not isinstance(owner, nn.Sequential):
        setattr(owner, name, nn.Sequential(OrderedDict(bottleneck=bottleneck, last=last)))
        return model
    # Every entry, those too that are one module a second time.
    entries = [(entry, module) for entry, module in owner._modules.items() if module is not None]
    for entry, _module in entries:
        delattr(owner, entry)
    for entry, module in entries:
        if entry == name:
            owner.add_module("bottleneck", bottleneck)
        owner.add_module(entry, module)
    return model


def find_bottleneck(model: nn.Module) -> tuple[str, Bottleneck] | None:
    """The network's bottleneck with its dotted name; None where it has none."""
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, Bottleneck)]
    return found[0] if found else None


def with_noise(state: ModelState, name: str, noise: Tensor) -> ModelState:
    """The state whose bottleneck `name` gets `noise` (N, size) in its next forward pass; buffers are shared."""
    return ModelState(parameters=state.parameters, buffers={**state.buffers, f"{name}.noise": noise})


@contextmanager
def encoded(bottleneck: Bottleneck) -> Iterator[list[Tensor]]:
    """The encoder's outputs (N, 2 size) of every forward pass while it lasts, differentiable."""
    seen: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:  # noqa: ARG001
        seen.append(output)

    hook = bottleneck.encoder.register_forward_hook(keep)
    try:
        yield seen
    finally:
        hook.remove()


def draw_code_noise(bottleneck: Bottleneck, count: int, random: Random, like: Tensor) -> Tensor:
    """A standard normal draw (count, size) for so many images, on `like`'s device."""
    return normal(random, (count, bottleneck.decoder.in_features)).to(like)
