"""What a sweep file says of the clients' network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Protocol

from fl_core.base.own_code import OwnCode
from fl_core.base.shape import ImageShape
from fl_core.base.types import LATER, Config, InUnits, require
from fl_core.models.finetuning.low_rank import LowRankConfig
from fl_core.models.weights import WeightsFile

ModelName = Literal[
    "cnn64",
    "lenet",
    "mlp",
    "resnet18",
    "convnet",
    "vgg11",
    "resnet20",
    "resnet50",
    "gn_resnet18",
    "vit",
    "own",
]

MOST_PIXELS = 4096
"""A larger side is a slip of the keyboard: `cnn64` would have 34 billion parameters at this one."""
MOST_CLASSES = 1_000_000
"""The same for classes, and for the numbers of a bottleneck."""
MOST_WIDE = 1_000_000
"""The same for a layer's width."""

_ONLY: dict[str, str] = {"widths": "mlp", "vit": "vit", "factory": "own", "args": "own"}
"""The settings that one kind of network has."""


class Network(Protocol):
    """What an attack needs to know of a network besides the module: its pictures, and how many logits it has."""

    @property
    def shape(self) -> ImageShape:
        """The pictures that the network takes."""

    @property
    def outputs(self) -> int:
        """How many logits it has."""


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(Config):
    """The sizes of `vit`: pixels on a side of a patch, numbers of a token, blocks, attention heads."""

    patch: Annotated[int, InUnits("pixels")] = 4
    """Pixels on a side of a patch."""
    width: Annotated[int, InUnits("numbers")] = 64
    """Numbers of a token."""
    depth: Annotated[int, InUnits("blocks")] = 4
    """Blocks."""
    heads: Annotated[int, InUnits("heads")] = 4
    """Attention heads."""

    def __post_init__(self) -> None:
        for name in ("patch", "width", "depth", "heads"):
            require(1 <= getattr(self, name) <= MOST_PIXELS, self, name, f"from 1 to {MOST_PIXELS}")
        require(self.width % self.heads == 0, self, "width", f"a multiple of heads, {self.heads}")


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Config):
    """A network by name, or one of the user's own.

    - `cnn64`: three 3x3 convolutions (64, 128, 256 channels), each with ReLU and 2x2 average pooling, then
      fully connected to 512 and to the classes (8.76 M parameters at 64x64).
    - `lenet`: the network of Zhu et al., Deep Leakage from Gradients (NeurIPS 2019): three 5x5 convolutions
      of 12 channels with sigmoids, then one fully connected layer.
    - `mlp`: pixels to each of `widths` (null: 512 and 256) to the classes, ReLU.
    - `resnet18`, `resnet50`: torchvision's (He et al. 2016, arXiv:1512.03385).
    - `resnet20`: He et al.'s for CIFAR: 16, 32, 64 channels, three blocks each, shortcuts without parameters.
    - `gn_resnet18`: `resnet18` with GroupNorm (32 groups) in place of BatchNorm, as federated learning with
      differential privacy uses it.
    - `convnet`: the network of Geiping et al. (2020, arXiv:2003.14053): eight 3x3 convolutions of 64 to 256 channels
      with BatchNorm and ReLU, two 3x3 max-poolings, one fully connected layer.
    - `vgg11`: the eight convolutions of Simonyan and Zisserman (2015, arXiv:1409.1556, A) with ReLU and five 2x2
      max-poolings, then one fully connected layer, as is usual for small pictures.
    - `vit`: a vision transformer (Dosovitskiy et al. 2021, arXiv:2010.11929) of the sizes in `vit`, with a class token
      and learned positions.
    - `own`: what `factory`, called with `args`, returns; it is the kind wherever there is a factory.

    `batch_norm` says how BatchNorm layers behave while a client trains: `eval` normalises by the running
    statistics and leaves them alone, `train` normalises by the batch and updates them. Models without
    BatchNorm ignore it. Dropout never drops. `bottleneck` is the size of a variational bottleneck in front of the last
    fully connected layer; null: none.

    `classes` is the number of outputs; null, as a sweep file that does not say it has it, is the data's.
    `image_size` is a side of square pictures, or `[height, width]`; `channels` is 3 for RGB (null says the same) or 1
    for grey pictures. The network gets pixels in [-1, 1]; with `mean` and `std`, one number for each channel, it gets
    (pixel - mean) / std of pixels in [0, 1]. `weights` is a file of starting weights.

    `trainable` names the parameters that clients train and send. All others are frozen: they are part of the network
    that everybody knows. `lora` puts adapters into linear layers; then clients train these alone, and what `trainable`
    names besides. Parameters of an own network that do not require a gradient are frozen too, unless `trainable` names
    them.
    """

    kind: ModelName = "cnn64"
    """The network."""
    classes: Annotated[int | None, InUnits("classes")] = 2
    """Outputs; left out or null in a sweep file: as many as the data have."""
    image_size: Annotated[int | tuple[int, int], InUnits("pixels")] = 64
    """Pixels on a side, or `[height, width]`."""
    batch_norm: Literal["eval", "train"] = "eval"
    """How BatchNorm behaves while a client trains."""
    bottleneck: Annotated[int | None, InUnits("numbers")] = None
    """Numbers of a variational bottleneck before the last layer; null: none."""
    channels: Literal[1, 3] | None = field(default=None, metadata=LATER)
    """3 for RGB, 1 for grey; null: 3."""
    mean: tuple[float, ...] | None = field(default=None, metadata=LATER)
    """What is taken from pixels in [0, 1], a number for each channel."""
    std: tuple[float, ...] | None = field(default=None, metadata=LATER)
    """What they are then divided by."""
    widths: Annotated[tuple[int, ...] | None, InUnits("units")] = field(default=None, metadata=LATER)
    """Widths of the hidden layers of `mlp`; null: 512 and 256."""
    vit: TransformerConfig | None = field(default=None, metadata=LATER)
    """The sizes of `vit`."""
    factory: OwnCode | None = field(default=None, metadata=LATER)
    """`FILE.py:FUNCTION` of your own that makes the network."""
    args: dict[str, Any] | None = field(default=None, metadata=LATER)
    """What the factory is called with."""
    weights: WeightsFile | None = field(default=None, metadata=LATER)
    """A file of starting weights."""
    trainable: tuple[str, ...] | None = field(default=None, metadata=LATER)
    """Names of the parameters that clients train and send, or patterns such as `blocks.*.attention.*`; null: all."""
    lora: LowRankConfig | None = field(default=None, metadata=LATER)
    """Low-rank adapters, which clients train in the place of the layers that have them; null: none."""

    def __post_init__(self) -> None:
        if self.factory is not None and self.kind == "cnn64":
            # A factory says the kind: `kind: own` beside it may be left out.
            object.__setattr__(self, "kind", "own")
        for name, kind in _ONLY.items():
            fits = getattr(self, name) is None or self.kind == kind
            require(fits, self, name, f"left out for kind: {self.kind}; it is for {kind}")
        own = self.kind != "own" or self.factory is not None
        require(own, self, "factory", "FILE.py:FUNCTION or package.module:FUNCTION for kind: own")
        known = self.classes is None or 2 <= self.classes <= MOST_CLASSES
        require(known, self, "classes", f"from 2 to {MOST_CLASSES}, or null for the data's")
        sides = (self.image_size,) if isinstance(self.image_size, int) else self.image_size
        least = 1 if self.kind == "own" else 8
        fits = all(least <= side <= MOST_PIXELS for side in sides)
        rule = f"from {least} to {MOST_PIXELS}, or [height, width] of such numbers"
        require(fits, self, "image_size", rule)
        narrow = self.bottleneck is None or 1 <= self.bottleneck <= MOST_CLASSES
        require(narrow, self, "bottleneck", f"from 1 to {MOST_CLASSES}, or null for none")
        wide = self.widths is None or all(1 <= width <= MOST_WIDE for width in self.widths)
        require(wide, self, "widths", f"a list of numbers from 1 to {MOST_WIDE}")
        some = self.trainable is None or bool(self.trainable)
        require(some, self, "trainable", "a list of one name or pattern at least, or null for all")
        self._check_normalisation()
        if self.kind == "vit":
            patch, (height, width) = self.transformer.patch, self.shape.size[1:]
            whole = height % patch == 0 and width % patch == 0
            require(whole, self, "image_size", f"a multiple of vit.patch, {patch}")

    def _check_normalisation(self) -> None:
        channels = self.shape.channels
        for name, other in (("mean", self.std), ("std", self.mean)):
            values = getattr(self, name)
            fits = (values is None) == (other is None) and (values is None or len(values) == channels)
            require(
                fits, self, name, f"a list of {channels} numbers, one for each channel, beside mean and std"
            )
        positive = self.std is None or all(value > 0 for value in self.std)
        require(positive, self, "std", "of numbers above 0")

    @property
    def shape(self) -> ImageShape:
        """The pictures that the network takes."""
        size = self.image_size
        height, width = (size, size) if isinstance(size, int) else size
        return ImageShape(channels=self.channels or 3, height=height, width=width)

    @property
    def outputs(self) -> int:
        """How many logits the network has; raises `ValueError` while that is left to the data."""
        if self.classes is None:
            raise ValueError("ModelConfig.classes is left to the data, which has not been opened")
        return self.classes

    @property
    def transformer(self) -> TransformerConfig:
        """The sizes of `vit`."""
        return self.vit or TransformerConfig()

    @property
    def label(self) -> str:
        """The network in a table: its kind, or where its own code is."""
        return self.kind if self.factory is None else self.factory.place
