"""A network's fully connected head, and the layers before it.

The analytic attack needs to know which linear layers follow each other with nothing but ReLUs between them, and to
run the part of the network in front of them alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from attack_core.gradients.tracing import couples_examples
from attack_core.signal.signal_model import vib_of_images
from fl_core.base.errors import InputError
from fl_core.base.shape import ImageShape
from fl_core.base.types import ModelState, Tensors
from fl_core.models.bottleneck import find_bottleneck
from fl_core.models.forward import layer_input, predict
from fl_core.threat.observation import Observation


@dataclass(frozen=True)
class Head:
    """Names of the last linear layers, first to last, with a ReLU after each but the last.

    `pixels` says that the first one's input is the flattened image itself. `random` says that a bottleneck that draws
    its code is among them: its two layers have the draw between them instead of a ReLU, and none follows.
    """

    layers: tuple[str, ...]
    pixels: bool
    random: bool = False

    @property
    def rectified(self) -> bool:
        """Whether a ReLU and another linear layer follow the first one."""
        return len(self.layers) > (3 if self.random else 1)

    @property
    def first(self) -> str:
        """The layer that sees the features."""
        return self.layers[0]


@dataclass(frozen=True)
class _Call:
    name: str
    module: nn.Module
    input: Tensor
    output: Tensor


def solvable_head(model: nn.Module, observation: Observation) -> Head:
    """`find_head` of the observed network; raises `InputError` too where BatchNorm mixes the images before it."""
    if couples_examples(model):
        raise InputError("BatchNorm in train mode mixes the images of a batch.")
    return observed_head(model, observation)


def observed_head(model: nn.Module, observation: Observation) -> Head:
    """`find_head` of the observed network, through its bottleneck where the attacker knows that one draws."""
    through = vib_of_images(observation) is not None
    return find_head(model, observation.state, observation.model.shape, through=through)


def find_head(model: nn.Module, state: ModelState, shape: ImageShape, *, through: bool = False) -> Head:
    """The fully connected end of `model`, found by running one image; raises `InputError` where there is none.

    `through` goes on in front of a bottleneck: whatever it drew, its gradients and those in front hold for that draw.
    """
    device = next(iter(state.parameters.values())).device
    image = torch.linspace(-1.0, 1.0, shape.numbers, device=device).view(1, *shape.size)
    calls = list(reversed(_calls(model, state, image)))
    if not calls or not isinstance(calls[0].module, nn.Linear):
        raise InputError("The model's last layer is not fully connected, so nothing follows analytically.")
    layers = [calls[0]]
    found = find_bottleneck(model) if through else None
    if found is not None:
        layers = [call for call in reversed(calls) if call.name.startswith(f"{found[0]}.")] + layers
    for relu, linear in itertools.pairwise(calls[len(layers) :]):
        follows = relu.output is layers[0].input and linear.output is relu.input
        if not (follows and isinstance(relu.module, nn.ReLU) and isinstance(linear.module, nn.Linear)):
            continue
        layers.insert(0, linear)
    entry = layers[0].input
    pixels = entry.shape[1] == image.numel() and bool(torch.equal(entry[0], image.flatten()))
    return Head(tuple(call.name for call in layers), pixels, found is not None)


def head_errors(weights: Tensors, head: Head, inputs: Tensor, labels: Tensor) -> Tensor:
    """The loss's gradient (B, O) at the first layer's output for each image alone."""
    first, *rest = head.layers
    outputs = passed_through(weights, [first], inputs).requires_grad_(True)
    logits = passed_through(weights, rest, outputs.relu()) if rest else outputs
    loss = functional.cross_entropy(logits, labels, reduction="sum")
    (errors,) = torch.autograd.grad(loss, outputs)
    return errors


def passed_through(weights: Tensors, layers: Sequence[str], inputs: Tensor) -> Tensor:
    """The outputs of the last of fully connected `layers`, with ReLUs between them."""
    for i, layer in enumerate(layers):
        inputs = functional.linear(
            inputs.relu() if i else inputs, weights[f"{layer}.weight"], weights[f"{layer}.bias"]
        )
    return inputs


@torch.no_grad()
def _calls(model: nn.Module, state: ModelState, image: Tensor) -> list[_Call]:
    """Every leaf module's call in order; outputs of one are the next one's input by identity."""
    calls: list[_Call] = []

    def keep(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls.append(_Call(name, module, inputs[0], output))

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if not any(True for _ in module.children()):
                hooks.callback(module.register_forward_hook(partial(keep, name)).remove)
        predict(model, state.with_own_buffers(), image)
    return calls


class Prefix:
    """The network up to a layer: from images (B, 3, S, S) to that layer's inputs (B, I), differentiable."""

    def __init__(self, model: nn.Module, state: ModelState, layer: str) -> None:
        parameters = dict(state.parameters)
        self._channels_last = all(value.device.type == "cpu" for value in parameters.values())
        if self._channels_last:
            # Convolutions run a fifth faster on the CPU in this layout.
            for name, value in parameters.items():
                if value.dim() == 4:
                    parameters[name] = value.contiguous(memory_format=torch.channels_last)
        self._model, self._layer = model, layer
        self._state = ModelState(parameters=parameters, buffers=state.buffers)

    def __call__(self, images: Tensor) -> Tensor:
        """See the class."""
        if self._channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return layer_input(self._model, self._state, self._layer, images)
