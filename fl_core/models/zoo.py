"""The networks of the zoo, built without values."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator
from functools import partial
from typing import cast

from torch import Tensor, nn
from torch.nn import functional

from fl_core.base.errors import InputError
from fl_core.base.shape import ImageShape
from fl_core.models.config import ModelConfig
from fl_core.models.transformer import VisionTransformer

_MLP_WIDTHS = (512, 256)
_GROUPS = 32
"""Of a GroupNorm layer's channels; the number of Wu and He (2018, arXiv:1803.08494)."""
_VGG11 = ((64,), (128,), (256, 256), (512, 512), (512, 512))
"""Channels of the convolutions between max-poolings."""


def architecture(config: ModelConfig) -> nn.Module:
    """The network of a kind of the zoo, on the device that is current; raises `InputError` for too small pictures."""
    shape, classes = config.shape, config.outputs
    match config.kind:
        case "cnn64":
            return _cnn64(shape, classes)
        case "lenet":
            return _lenet(shape, classes)
        case "mlp":
            return _mlp(shape, classes, config.widths or _MLP_WIDTHS)
        case "resnet18" | "resnet50" | "gn_resnet18":
            return _resnet(config.kind, shape, classes)
        case "resnet20":
            return _resnet20(shape, classes)
        case "convnet":
            return _convnet(shape, classes)
        case "vgg11":
            return _vgg11(shape, classes)
        case "vit":
            return VisionTransformer(config.transformer, shape, classes)
        case "own":
            raise AssertionError("a user's own network is not of the zoo")


def _cnn64(shape: ImageShape, classes: int) -> nn.Module:
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


def _lenet(shape: ImageShape, classes: int) -> nn.Module:
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


def _mlp(shape: ImageShape, classes: int, widths: tuple[int, ...]) -> nn.Module:
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    inputs = shape.numbers
    for i, width in enumerate(widths, start=1):
        layers[f"fc{i}"] = nn.Linear(inputs, width)
        layers[f"relu{i}"] = nn.ReLU()
        inputs = width
    layers[f"fc{len(widths) + 1}"] = nn.Linear(inputs, classes)
    return nn.Sequential(layers)


def _resnet(kind: str, shape: ImageShape, classes: int) -> nn.Module:
    import torchvision  # seconds of imports, which other networks do not need

    make = torchvision.models.resnet50 if kind == "resnet50" else torchvision.models.resnet18
    norm = partial(nn.GroupNorm, _GROUPS) if kind == "gn_resnet18" else nn.BatchNorm2d
    network = make(num_classes=classes, norm_layer=norm)
    if shape.channels != 3:
        network.conv1 = nn.Conv2d(shape.channels, 64, 7, stride=2, padding=3, bias=False)
    network.maxpool = _MaxPool(3, stride=2, padding=1)
    return cast("nn.Module", network)


def _resnet20(shape: ImageShape, classes: int) -> nn.Module:
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    channels = 16
    for stage, width in enumerate((16, 32, 64), start=1):
        for i in range(3):
            stride = 2 if stage > 1 and i == 0 else 1
            blocks[f"block{stage}_{i + 1}"] = _Residual(channels, width, stride)
            channels = width
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(shape.channels, 16, 3, padding=1, bias=False),
            norm=nn.BatchNorm2d(16),
            relu=nn.ReLU(),
            **blocks,
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            fc=nn.Linear(64, classes),
        )
    )


class _Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut that leaves out pixels and adds channels of zeros (option A)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.stride, self.added = stride, outputs - inputs

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, I, H, W) to (N, O, H / stride, W / stride)."""
        found = self.norm2(self.conv2(self.norm1(self.conv1(images)).relu()))
        shortcut = images[:, :, :: self.stride, :: self.stride]
        if self.added:
            shortcut = functional.pad(shortcut, (0, 0, 0, 0, self.added // 2, self.added - self.added // 2))
        added: Tensor = (found + shortcut).relu()
        return added


def _convnet(shape: ImageShape, classes: int) -> nn.Module:
    rest = _pooled(shape, sides=3, times=2, kind="convnet")
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels = shape.channels
    for i, width in enumerate((64, 128, 128, 256, 256, 256, 256, 256)):
        layers |= _named(i, nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        if i in (5, 7):
            layers[f"pool{i}"] = _MaxPool(3, stride=3, padding=0)
        channels = width
    return nn.Sequential(OrderedDict(**layers, flatten=nn.Flatten(), fc=nn.Linear(channels * rest, classes)))


def _vgg11(shape: ImageShape, classes: int) -> nn.Module:
    rest = _pooled(shape, sides=2, times=len(_VGG11), kind="vgg11")
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels, number = shape.channels, 0
    for stage, widths in enumerate(_VGG11):
        for width in widths:
            layers |= _named(number, nn.Conv2d(channels, width, 3, padding=1), nn.ReLU())
            channels, number = width, number + 1
        layers[f"pool{stage}"] = _MaxPool(2, stride=2, padding=0)
    return nn.Sequential(OrderedDict(**layers, flatten=nn.Flatten(), fc=nn.Linear(channels * rest, classes)))


def _named(number: int, *modules: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Layers of one convolution by name, such as `conv0`, `norm0`, `relu0`."""
    words = {nn.Conv2d: "conv", nn.BatchNorm2d: "norm", nn.ReLU: "relu"}
    return ((f"{words[type(module)]}{number}", module) for module in modules)


def _pooled(shape: ImageShape, *, sides: int, times: int, kind: str) -> int:
    """How many pixels are left of one channel after so many poolings; raises `InputError` where none is."""
    factor: int = sides**times
    height, width = shape.height // factor, shape.width // factor
    if not height * width:
        raise InputError(
            f"model.image_size: {kind} pools {shape.pixels} pixels away; use at least {factor} on a side."
        )
    return height * width


class _MaxPool(nn.Module):
    """Max-pooling by way of the indices.

    The numbers are those of `nn.MaxPool2d`, whose slope has no slope on MPS: gradient matching needs one.
    """

    def __init__(self, side: int, *, stride: int, padding: int) -> None:
        super().__init__()
        self.side, self.stride, self.padding = side, stride, padding

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) to the pooled ones."""
        sides, strides, paddings = (self.side,) * 2, (self.stride,) * 2, (self.padding,) * 2
        pooled, _ = functional.max_pool2d_with_indices(images, sides, stride=strides, padding=paddings)
        return pooled
