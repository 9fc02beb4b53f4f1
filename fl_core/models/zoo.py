"""The victims' networks by name, initialised from a generator."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Literal, cast

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from fl_core.base.errors import InputError
from fl_core.base.shape import ImageShape
from fl_core.base.types import LATER, Config, ModelState, require
from fl_core.models.bottleneck import Bottleneck

ModelName = Literal["cnn64", "lenet", "mlp", "resnet18"]

MOST_PIXELS = 4096
"""A larger side is a slip of the keyboard: `cnn64` would have 34 billion parameters at this one."""
MOST_CLASSES = 1_000_000
"""The same for classes, and for the numbers of a bottleneck."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Config):
    """A network by name.

    - `cnn64`: three 3x3 convolutions (64, 128, 256 channels), each with ReLU and 2x2 average pooling, then
      fully connected to 512 and to the classes (8.76 M parameters at 64x64).
    - `lenet`: the network of Zhu et al., Deep Leakage from Gradients (NeurIPS 2019): three 5x5 convolutions
      of 12 channels with sigmoids, then one fully connected layer.
    - `mlp`: pixels to 512 to 256 to the classes, ReLU.
    - `resnet18`: torchvision's.

    `batch_norm` says how BatchNorm layers behave while a client trains: `eval` normalises by the running
    statistics and leaves them alone, `train` normalises by the batch and updates them. Models without
    BatchNorm ignore it. `bottleneck` is the size of a variational bottleneck in front of the last layer; null: none.

    `image_size` is a side of square pictures, or `[height, width]`; `channels` is 3 for RGB (null says the same) or 1
    for grey pictures.
    """

    kind: ModelName = "cnn64"
    classes: int = 2
    image_size: int | tuple[int, int] = 64
    batch_norm: Literal["eval", "train"] = "eval"
    bottleneck: int | None = None
    channels: Literal[1, 3] | None = field(default=None, metadata=LATER)

    def __post_init__(self) -> None:
        require(2 <= self.classes <= MOST_CLASSES, self, "classes", f"from 2 to {MOST_CLASSES}")
        sides = (self.image_size,) if isinstance(self.image_size, int) else self.image_size
        fits = all(8 <= side <= MOST_PIXELS for side in sides)
        require(fits, self, "image_size", f"from 8 to {MOST_PIXELS}, or [height, width] of such numbers")
        narrow = self.bottleneck is None or 1 <= self.bottleneck <= MOST_CLASSES
        require(narrow, self, "bottleneck", f"from 1 to {MOST_CLASSES}, or null for none")

    @property
    def shape(self) -> ImageShape:
        """The pictures that the network takes."""
        size = self.image_size
        height, width = (size, size) if isinstance(size, int) else size
        return ImageShape(channels=self.channels or 3, height=height, width=width)


def build_model(config: ModelConfig) -> nn.Module:
    """The network without values: parameters live on the `meta` device until a `ModelState` is put in.

    Its mode (train or eval) is the one that `config.batch_norm` asks for. Global random state is untouched.
    """
    with torch.device("meta"):
        model = _architecture(config)
        if config.bottleneck is not None:
            model = _narrowed(model, config.bottleneck)
    return model.train(config.batch_norm == "train")


def check_batch(config: ModelConfig, images: int) -> None:
    """Raise `InputError` where BatchNorm can't normalise a batch of so many images by itself: one value a channel."""
    if config.batch_norm == "eval":
        return
    try:
        build_model(config)(config.shape.empty(images, "meta"))
    except ValueError as error:
        many = f"{images} image{'s' if images > 1 else ''}"
        raise InputError(
            f"model.batch_norm = 'train': a batch of {many} of {config.shape.pixels} pixels leaves a BatchNorm layer "
            f"of {config.kind} one value a channel, which has no spread; use batch_norm: eval, larger images, or "
            "batches of more images that leave no single one over."
        ) from error


def initial_state(config: ModelConfig, generator: torch.Generator) -> ModelState:
    """Random starting weights (float32, CPU), the same for the same generator state.

    PyTorch's own defaults: uniform in +-1/sqrt(fan in) for convolutions and linear layers; He et al. (2015)
    normal, fan out, for `resnet18`'s convolutions; uniform in +-0.5 for `lenet`, as in its paper, since
    sigmoids pass hardly any gradient at smaller weights. A bottleneck is drawn last, so that with one the other weights
    are what they are without.
    """
    model = build_model(config)
    parameters: dict[str, Tensor] = {}
    buffers: dict[str, Tensor] = {}
    for prefix, module in sorted(model.named_modules(), key=lambda named: _in_bottleneck(named[0])):
        values = _initial_values(module, config, generator, plain=_in_bottleneck(prefix))
        for name, parameter in module.named_parameters(recurse=False):
            value = values[name]
            if value.shape != parameter.shape:
                raise AssertionError(f"{prefix}.{name}: {tuple(value.shape)} for {tuple(parameter.shape)}")
            parameters[f"{prefix}.{name}"] = value
        for name, buffer in module.named_buffers(recurse=False):
            fill = torch.ones if name == "running_var" else torch.zeros
            buffers[f"{prefix}.{name}"] = fill(buffer.shape, dtype=buffer.dtype)
    ordered = {name: parameters[name] for name, _ in model.named_parameters()}
    return ModelState(parameters=ordered, buffers=buffers)


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


def _architecture(config: ModelConfig) -> nn.Module:
    shape, classes = config.shape, config.classes
    match config.kind:
        case "cnn64":
            widths = (shape.channels, 64, 128, 256)
            layers: OrderedDict[str, nn.Module] = OrderedDict()
            for i in range(3):
                layers[f"conv{i + 1}"] = nn.Conv2d(widths[i], widths[i + 1], 3, padding=1)
                layers[f"relu{i + 1}"] = nn.ReLU()
                layers[f"pool{i + 1}"] = nn.AvgPool2d(2)
            layers["flatten"] = nn.Flatten()
            layers["fc1"] = nn.Linear(256 * (shape.height // 8) * (shape.width // 8), 512)
            layers["relu4"] = nn.ReLU()
            layers["fc2"] = nn.Linear(512, classes)
            return nn.Sequential(layers)
        case "lenet":
            return nn.Sequential(
                OrderedDict(
                    conv1=nn.Conv2d(shape.channels, 12, 5, stride=2, padding=2),
                    act1=nn.Sigmoid(),
                    conv2=nn.Conv2d(12, 12, 5, stride=2, padding=2),
                    act2=nn.Sigmoid(),
                    conv3=nn.Conv2d(12, 12, 5, stride=1, padding=2),
                    act3=nn.Sigmoid(),
                    flatten=nn.Flatten(),
                    fc=nn.Linear(12 * math.ceil(shape.height / 4) * math.ceil(shape.width / 4), classes),
                )
            )
        case "mlp":
            return nn.Sequential(
                OrderedDict(
                    flatten=nn.Flatten(),
                    fc1=nn.Linear(shape.numbers, 512),
                    relu1=nn.ReLU(),
                    fc2=nn.Linear(512, 256),
                    relu2=nn.ReLU(),
                    fc3=nn.Linear(256, classes),
                )
            )
        case "resnet18":
            network = torchvision.models.resnet18(num_classes=classes)
            if shape.channels != 3:
                network.conv1 = nn.Conv2d(shape.channels, 64, 7, stride=2, padding=3, bias=False)
            network.maxpool = _MaxPool()
            return cast("nn.Module", network)


def _narrowed(model: nn.Module, size: int) -> nn.Module:
    """The network with a bottleneck in front of its last child, which is linear in every architecture."""
    *front, (name, last) = model.named_children()
    bottleneck = Bottleneck(cast("nn.Linear", last).in_features, size)
    if isinstance(model, nn.Sequential):
        return nn.Sequential(OrderedDict([*front, ("bottleneck", bottleneck), (name, last)]))
    setattr(model, name, nn.Sequential(OrderedDict(bottleneck=bottleneck, last=last)))
    return model


class _MaxPool(nn.Module):
    """`resnet18`'s pooling, 3x3 every 2 pixels, by way of the indices.

    The numbers are those of `nn.MaxPool2d`, whose slope has no slope on MPS: gradient matching needs one.
    """

    def forward(self, images: Tensor) -> Tensor:
        pooled, _ = functional.max_pool2d_with_indices(images, (3, 3), stride=(2, 2), padding=(1, 1))
        return pooled


def _in_bottleneck(name: str) -> bool:
    return "bottleneck" in name.split(".")


def _initial_values(
    module: nn.Module, config: ModelConfig, generator: torch.Generator, *, plain: bool
) -> dict[str, Tensor]:
    """By name; `plain` is PyTorch's default whatever the network."""
    if isinstance(module, nn.BatchNorm2d):
        return {"weight": torch.ones(module.num_features), "bias": torch.zeros(module.num_features)}
    if not isinstance(module, nn.Conv2d | nn.Linear):
        return {}
    shape = module.weight.shape
    fan_in = math.prod(shape[1:])
    if config.kind == "resnet18" and isinstance(module, nn.Conv2d):
        fan_out = shape[0] * math.prod(shape[2:])
        return {"weight": torch.randn(shape, generator=generator) * math.sqrt(2.0 / fan_out)}
    bound = 0.5 if config.kind == "lenet" and not plain else 1.0 / math.sqrt(fan_in)
    values = {"weight": _uniform(shape, bound, generator)}
    if module.bias is not None:
        values["bias"] = _uniform(module.bias.shape, bound, generator)
    return values


def _uniform(shape: torch.Size, bound: float, generator: torch.Generator) -> Tensor:
    return (torch.rand(shape, generator=generator) * 2.0 - 1.0) * bound
