"""What the deep convolutions of a network saw of one image, as far as the signal determines it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from attack_core.convolutions.calls import convolution_calls
from attack_core.convolutions.patch_space import ConvolutionInput, convolution_inputs
from attack_core.fc.head import solvable_head
from attack_core.fc.inversion import input_estimate
from attack_core.fc.spear import Inseparable
from attack_core.gradients.tracing import couples_examples
from attack_core.signal.signal_model import exact_gradients
from fl_core.base.errors import InputError
from fl_core.threat.observation import Observation


@dataclass(frozen=True, kw_only=True)
class DeepLimits:
    """When inputs of convolutions are worth an inversion, and where reading more of them ends."""

    enough: float = 1.5
    """Inputs that are not 0, for each pixel's number, from which no further layer is read. Not measured."""
    least: float = 0.5
    """The same, features of the fully connected layer included, below which the image is left to others.

    Measured at 1.4 and more only (docs/attacks.md), not in between.
    """
    of_batch: float = 1.0
    """The numbers, 0 or not, of a batch's inputs for each pixel's number, from which no layer behind is read.

    What lies behind follows from them. Behind `resnet18`, a batch of four pictures of CIFAR-10's training split, they
    gave 2 dB more by themselves than with three layers behind.
    """


DEEP_LIMITS = DeepLimits()
"""The limits in force."""


@dataclass(frozen=True)
class DeepInputs:
    """What is known of one image deep in the network: `values` (1, ...) are the inputs of `layers`.

    `error` is how far, relatively, two ways to find them are apart.
    """

    layers: tuple[str, ...]
    values: tuple[Tensor, ...]
    note: str
    error: float


def deep_inputs(observation: Observation, model: nn.Module, limits: DeepLimits = DEEP_LIMITS) -> DeepInputs:
    """The inputs of the earliest convolutions that the signal determines, with the features where those are too few.

    Raises `InputError` where too little of the image is determined: several images or steps, known errors, withheld
    numbers, and networks whose convolutions have more positions than output channels.
    """
    if observation.examples > 1:
        raise InputError(f"convolutions of {observation.examples} images see mixtures of them")
    if observation.steps > 1:
        raise InputError(f"the weights moved in {observation.steps} steps")
    gradients = exact_gradients(observation)
    if couples_examples(model):
        raise InputError("BatchNorm in train mode mixes the images of a batch")
    calls = convolution_calls(model, observation.state, observation.model.shape)
    pixels = observation.model.shape.numbers
    read = convolution_inputs(calls, gradients, enough=limits.enough * pixels)
    known = sum(one.known for one in read)
    layers, values = [one.layer for one in read], [one.values for one in read]
    if not read:
        raise InputError("no convolution's gradient determines its input")
    if known < limits.enough * pixels and (features := _features(observation, model, gradients)) is not None:
        layers.append(features[0])
        values.append(features[1])
        known += int(features[1].count_nonzero())
    if known < limits.least * pixels:
        raise InputError(f"convolutions determine {known} numbers that are not 0, for {pixels} pixels")
    return DeepInputs(
        tuple(layers), tuple(values), _note(read, known, pixels), max(one.error for one in read)
    )


def _note(read: list[ConvolutionInput], known: int, pixels: int) -> str:
    names = ", ".join(one.layer for one in read)
    many = "the inputs of convolutions" if len(read) > 1 else "the input of convolution"
    return f"{many} {names} from the row space of their gradients: {known} numbers that are not 0, for {pixels} pixels"


def _features(
    observation: Observation, model: nn.Module, gradients: dict[str, Tensor]
) -> tuple[str, Tensor] | None:
    """The fully connected layer that sees the features, and these (1, I); None where they don't follow."""
    try:
        first = solvable_head(model, observation).first
        target = input_estimate(gradients[f"{first}.weight"], gradients[f"{first}.bias"], "weighted")
    except (InputError, Inseparable, KeyError):
        return None
    return first, target[None]
