"""A network's fully connected head, and the layers before it.

The analytic attack needs to know which linear layers follow each other with nothing but ReLUs between them, and to
run the part of the network in front of them alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from attack_core.fc.relu_chain import Graph
from attack_core.gradients.calls import has_closed_form
from attack_core.gradients.convolutions import Geometry, fixed_weights
from attack_core.gradients.kernels.replaced import replaced
from attack_core.gradients.operations import twice_differentiable
from attack_core.gradients.tracing import couples_examples
from attack_core.signal.signal_model import vib_of_images
from fl_core.base.errors import InputError
from fl_core.base.rng import generator
from fl_core.base.shape import ImageShape
from fl_core.base.types import ModelState, Tensors
from fl_core.models.bottleneck import find_bottleneck
from fl_core.models.forward import layer_inputs
from fl_core.threat.observation import Observation


@dataclass(frozen=True, kw_only=True)
class HeadLimits:
    """When a layer's input counts as the image's own pixels."""

    same: float = 1e-5
    """Inputs that differ by less, relatively, are the same up to float32's rounding of a few operations.

    Normalisations leave some 1e-7 (not tuned: nothing lies between that and a layer that computes something else).
    """


HEAD_LIMITS = HeadLimits()
"""The limits in force."""


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

    def in_front(self, names: Iterable[str]) -> list[str]:
        """Those of parameters' `names` that are none of the head's."""
        own = tuple(f"{layer}." for layer in self.layers)
        return [name for name in names if not name.startswith(own)]


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
    """The fully connected end of `model`, found by running two images; raises `InputError` where there is none.

    It ends in front of whatever is not a ReLU, and of a layer without a bias or whose parameters are used by more than
    one call of it: the gradients of such a layer don't tell its input. `through` goes on in front of a bottleneck:
    whatever it drew, its gradients and those in front hold for that draw.
    """
    device = next(iter(state.parameters.values())).device
    image = torch.linspace(-1.0, 1.0, shape.numbers, device=device).view(shape.size)
    images = torch.stack([image, -image])
    graph = Graph.of(model, state, images)
    last = graph.source(graph.logits.grad_fn, relu=False)
    if last is None:
        raise InputError(
            "The model's last layer is not fully connected, or clients do not train it, so nothing follows "
            "analytically."
        )
    if last.module.bias is None:
        raise InputError(
            f"Layer {last.name!r}, the model's last, has no bias: the analytic attack reads what enters a layer off "
            "the gradients of its weight and its bias together."
        )
    if not last.alone:
        raise InputError(
            f"Parameters of layer {last.name!r}, the model's last, are used elsewhere too, so their gradients don't "
            "tell what enters the layer."
        )
    layers = [last]
    found = find_bottleneck(model) if through else None
    if found is not None:
        layers = [call for call in graph.calls.values() if call.name.startswith(f"{found[0]}.")] + layers
    while (below := graph.source(layers[0].begins, relu=True)) is not None:
        solvable = below.alone and below.module.bias is not None
        if not (solvable and torch.equal(below.output.relu(), layers[0].input)):
            break
        layers.insert(0, below)
    pixels = torch.equal(layers[0].input, images.flatten(1))
    return Head(tuple(call.name for call in layers), pixels, found is not None)


@dataclass(frozen=True)
class PixelMap:
    """A layer's input (B, I) that is `factor` times the flattened image plus `offset`, each (I,): normalised pixels."""

    factor: Tensor
    offset: Tensor

    def images(self, inputs: Tensor) -> Tensor:
        """The flattened images (B, I) behind a layer's inputs."""
        return (inputs - self.offset) / self.factor

    @property
    def least(self) -> float:
        """The least that a change of a pixel changes the input."""
        return float(self.factor.abs().min())

    @classmethod
    def of(
        cls,
        model: nn.Module,
        state: ModelState,
        layer: str,
        shape: ImageShape,
        limits: HeadLimits = HEAD_LIMITS,
    ) -> Self | None:
        """How pixels in [-1, 1] enter `layer`, seen on five images; None where they do so in another way."""
        device = next(iter(state.parameters.values())).device
        ramp = torch.linspace(-1.0, 1.0, shape.numbers, device=device)
        noise = torch.rand(shape.numbers, generator=generator("pixels of a layer")).to(device) * 2.0 - 1.0
        shown = torch.stack([torch.zeros_like(ramp), torch.ones_like(ramp), ramp, -ramp, noise])
        with torch.no_grad():
            seen = Prefix(model, state, layer)(shown.view(-1, *shape.size))
        if seen.shape != shown.shape:
            return None
        found = cls(seen[1] - seen[0], seen[0])
        told = shown * found.factor + found.offset
        fits = bool(
            torch.isclose(seen, told, rtol=limits.same, atol=limits.same * float(seen.abs().max())).all()
        )
        return found if fits and found.least > limits.same * float(found.factor.abs().max()) else None


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


class Prefix:
    """The network up to some layers: from images (B, 3, S, S) to their inputs (B, I), side by side, differentiable."""

    def __init__(self, model: nn.Module, state: ModelState, *layers: str) -> None:
        self._channels_last = all(value.device.type == "cpu" for value in state.parameters.values())
        self._model, self._layers = model, layers
        self._state = ModelState(parameters=fixed_weights(state.parameters), buffers=state.buffers)
        modules = list(model.modules()) if self._channels_last else []
        self._convolutions = [
            each for each in modules if isinstance(each, nn.Conv2d) and has_closed_form(each)
        ]

    def __call__(self, images: Tensor) -> Tensor:
        """See the class."""
        if self._channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        convolutions = replaced(
            self._convolutions, "_conv_forward", lambda layer: Geometry.of(layer).convolution
        )
        with twice_differentiable(self._model), convolutions:
            found = layer_inputs(self._model, self._state, self._layers, images)
        flat = [each.flatten(1) for each in found]
        return flat[0] if len(flat) == 1 else torch.cat(flat, 1)
