"""Small networks of every kind that an attack has to follow, each for images of 32 pixels and four classes or fewer."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from fl_core.base.rng import generator
from fl_core.base.types import ModelState
from fl_core.models.bottleneck import Bottleneck

SIDE = 32
CLASSES = 3
SMALL = 8
"""The side of the images of networks of one's own, which is enough for them."""


class Lambda(nn.Module):
    """A layer without parameters that is a function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Patches(nn.Module):
    """Tokens (N, T, E) of an image: its patches of 4 pixels, projected by a convolution, with learned positions."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.project = nn.Conv2d(3, width, 4, stride=4)
        self.positions = nn.Embedding((SMALL // 4) ** 2, width)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.project(images).flatten(2).transpose(1, 2)
        places = torch.arange(tokens.shape[1], device=tokens.device)
        placed: Tensor = tokens + self.positions(places)
        return placed


class Attention(nn.Module):
    """Multi-head attention over patches, its mean, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = Patches()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images)
        mixed, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        logits: Tensor = self.head(mixed.mean(1))
        return logits


class SequenceFirst(nn.Module):
    """Linear layers alone, on tokens whose first axis is the place, not the image."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Conv2d(3, 5, 4, stride=4)
        self.mix = nn.Linear(5, 6)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.project(images).flatten(2).permute(2, 0, 1)
        return self.head(torch.tanh(self.mix(tokens)).mean(0))  # type: ignore[no-any-return]


class Reused(nn.Module):
    """A linear layer and a convolution that are called twice, and a LayerNorm that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.first = nn.Linear(3 * SMALL**2, 40)
        self.again = nn.Linear(40, 40)
        self.unused = nn.LayerNorm(6)
        self.head = nn.Linear(40, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        x = functional.relu(self.conv(torch.tanh(self.conv(images))))
        x = torch.tanh(self.again(torch.tanh(self.first(x.flatten(1)))))
        return self.head(torch.relu(self.again(x)))  # type: ignore[no-any-return]


class Tied(nn.Module):
    """Two linear layers with one weight, and a third weight that is used by its layer and by a function."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3 * SMALL**2, 6)
        self.second = nn.Linear(6, 6)
        self.third = nn.Linear(6, 6)
        self.third.weight = self.second.weight
        self.head = nn.Linear(6, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        x = torch.tanh(self.first(images.flatten(1)))
        x = self.third(torch.tanh(self.second(x)))
        return self.head(x) + functional.linear(x.sin(), self.head.weight)  # type: ignore[no-any-return]


class RootParameters(nn.Module):
    """Parameters of the network itself: a scale without axes, a class token, and one for a weight by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.weight = nn.Parameter(torch.randn(CLASSES, 8))
        self.patches = Patches()
        self.mix = nn.Linear(8, 8)

    def forward(self, images: Tensor) -> Tensor:
        tokens = torch.cat([self.token.expand(len(images), -1, -1), self.patches(images)], dim=1)
        tokens = tokens + tokens.sin().mean(1, keepdim=True)
        return functional.linear(self.scale * functional.silu(self.mix(tokens))[:, 0], self.weight)


class Skips(nn.Module):
    """Skip connections inside each other, dense ones, and activations that are changed in place."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.inner = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.outer = nn.Conv2d(8, 4, 1, bias=False)
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        x = self.act(self.norm(self.enter(images)))
        y = self.inner(x)
        y += x
        z = self.outer(torch.cat([x, self.act(y)], dim=1))
        z.mul_(2.0).add_(x)
        return self.head((z * torch.sigmoid(y)).mean((2, 3)))  # type: ignore[no-any-return]


class MixesImages(nn.Module):
    """Features less their mean over the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3 * SMALL**2, 6)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        x = self.first(images.flatten(1))
        return self.head(torch.tanh(x - x.mean(0)))  # type: ignore[no-any-return]


class ConstantInput(nn.Module):
    """Biases of positions that a small network makes of their coordinates, whatever the image."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = Patches()
        self.places = nn.Linear(2, 8)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        grid = torch.cartesian_prod(torch.arange(2), torch.arange(2)).to(images)
        return self.head(torch.tanh(self.patches(images) + self.places(grid)).mean(1))  # type: ignore[no-any-return]


def _line(*layers: nn.Module, width: int) -> nn.Module:
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width, CLASSES))


def _encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True)
    return nn.Sequential(Patches(), layer, _line(width=4 * 8))


def _norms() -> nn.Module:
    conv = nn.Conv2d(3, 4, 3, stride=2)
    shape = [4, 3, 3]
    return _line(
        conv, nn.GroupNorm(2, 4), nn.GELU(), nn.LayerNorm(shape), nn.InstanceNorm2d(4, affine=True), width=36
    )


def _paddings() -> nn.Module:
    same = nn.Conv2d(3, 4, 3, padding="same")
    reflect = nn.Conv2d(4, 3, 3, stride=2, padding=1, padding_mode="reflect")
    return _line(same, nn.PReLU(), reflect, nn.Sigmoid(), width=48)


def _transposed() -> nn.Module:
    up = nn.ConvTranspose2d(3, 2, 3, stride=2)
    return _line(up, nn.Softplus(), nn.Flatten(2), nn.Conv1d(2, 3, 5, stride=4), nn.BatchNorm1d(3), width=216)


def _volumes() -> nn.Module:
    layers = (Lambda(lambda x: x[:, None]), nn.Conv3d(1, 2, 3, padding=1), nn.BatchNorm3d(2), nn.Tanh())
    return _line(*layers, width=2 * 3 * SMALL**2)


def _parametrised() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), parametrizations.weight_norm(nn.Linear(192, 6)), nn.Tanh(), nn.Linear(6, 3)
    )


def _bottleneck() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.ReLU(), Bottleneck(8, 3), nn.Linear(8, CLASSES))


def _batch_norm_1d() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, CLASSES))


def _vit() -> nn.Module:
    return torchvision.models.VisionTransformer(
        image_size=SIDE,
        patch_size=16,
        num_layers=2,
        num_heads=2,
        hidden_dim=8,
        mlp_dim=12,
        num_classes=CLASSES,
    )


def _convnext() -> nn.Module:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    return ConvNeXt([CNBlockConfig(8, 12, 1), CNBlockConfig(12, None, 2)], num_classes=CLASSES)


def _vgg11() -> nn.Module:
    """Its convolutions, with narrow fully connected layers: those of the original have 120 million weights."""
    model = torchvision.models.vgg11(num_classes=CLASSES)
    model.avgpool = nn.Identity()
    relu, drop = nn.ReLU(inplace=True), nn.Dropout()
    model.classifier = nn.Sequential(
        nn.Linear(512, 16), relu, drop, nn.Linear(16, 16), nn.ReLU(), drop, nn.Linear(16, CLASSES)
    )
    return model


def _torchvision(name: str) -> Callable[[], nn.Module]:
    return lambda: torchvision.models.get_model(name, num_classes=CLASSES)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "vit": (_vit, SIDE),
    "convnext": (_convnext, SIDE),
    "norms": (_norms, SMALL),
    "attention": (Attention, SMALL),
    "encoder": (_encoder, SMALL),
    "reused": (Reused, SMALL),
    "tied": (Tied, SMALL),
    "paddings": (_paddings, SMALL),
    "root": (RootParameters, SMALL),
    "transposed": (_transposed, SMALL),
    "volumes": (_volumes, SMALL),
    "bottleneck": (_bottleneck, SMALL),
    "skips": (Skips, SMALL),
    "parametrised": (_parametrised, SMALL),
    "sequence_first": (SequenceFirst, SMALL),
    "mixes_images": (MixesImages, SMALL),
    "constant_input": (ConstantInput, SMALL),
    "batch_norm_1d": (_batch_norm_1d, SMALL),
}
"""What builds each network, and the side of its images."""

LARGE: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "vgg11": (_vgg11, SIDE),
    **{name: (_torchvision(name), SIDE) for name in ("resnet18", "densenet121", "mobilenet_v3_small")},
}
"""The same for torchvision's own, which take seconds each."""


def built(name: str, *, train: bool = False, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, int]:
    """A network of the table with weights that are the same every time, and the side of its images."""
    make, side = {**NETWORKS, **LARGE}[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = make().to(dtype).train(train)
        with torch.no_grad():
            for key, buffer in model.named_buffers():
                if key.endswith("running_var"):
                    buffer.uniform_(0.5, 2.0)
                elif key.endswith("running_mean"):
                    buffer.normal_(0.0, 0.3)
    return model, side


def state_of(model: nn.Module) -> ModelState:
    """Its own parameters and buffers."""
    return ModelState(
        parameters=dict(model.named_parameters()), buffers=dict(model.named_buffers())
    ).detached()


def some(shape: tuple[int, ...], seed: object, dtype: torch.dtype = torch.float64) -> Tensor:
    """Images from a standard normal distribution."""
    return torch.randn(shape, generator=generator("networks", str(seed)), dtype=dtype)
