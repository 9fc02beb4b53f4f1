"""Where a network cuts its picture into patches and adds a learned position to each.

Nothing is read off the names or classes of a network: the layer that sees the picture first has to see each pixel in
one patch, and on a random picture the gradients of that layer and of the positions have to satisfy the equation that
the attack solves (`attack_core.tokens.equations`). So torchvision's transformers, those of the zoo and a user's own
are found alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from attack_core.gradients.refusals import check_logits
from attack_core.gradients.tracing import couples_examples
from fl_core.base.decibels import TINY
from fl_core.base.errors import InputError
from fl_core.base.shape import ImageShape
from fl_core.base.types import ModelState
from fl_core.models.forward import predict


@dataclass(frozen=True, kw_only=True)
class EmbeddingCheck:
    """When the layers of a network are taken for a patch embedding and its positions."""

    most_others: int = 16
    """How many tokens may have a position besides the patches: class, distillation and register tokens."""
    holds: float = 1e-3
    """The relative error up to which the equation holds on a random picture.

    Float32 left 2e-7 to 3e-7 on two of torchvision's transformers; what others leave was not measured.
    """
    drawn: float = 0.02
    """The standard deviation of what stands for parameters that are all 0 in the check: a head that starts at 0 would
    hide that the equation holds. Dosovitskiy et al.'s for positions; not measured against others."""


EMBEDDING_CHECK = EmbeddingCheck()
"""The check in force."""


@dataclass(frozen=True, kw_only=True)
class PatchLayout:
    """How the first layer, `layer`, of a transformer cuts a picture into T patches of I numbers each.

    Number i of patch t is scale[i] pixel + offset[i] for the pixel (counted through the picture (C, H, W)) in `pixels`
    (T, I); `scale` and `offset` have shape (I,).
    """

    layer: str
    pixels: Tensor
    scale: Tensor
    offset: Tensor

    @property
    def weight(self) -> str:
        """The name of the layer's weight."""
        return f"{self.layer}.weight"

    @property
    def tokens(self) -> int:
        """How many patches there are."""
        return len(self.pixels)

    def on_cpu(self) -> Self:
        """The same with its tensors on the CPU."""
        return replace(self, pixels=self.pixels.cpu(), scale=self.scale.cpu(), offset=self.offset.cpu())

    def patches_of(self, picture: Tensor) -> Tensor:
        """Patches (T, I) of a picture (C, H, W), in pixels."""
        return picture.reshape(-1)[self.pixels]

    def picture_of(self, patches: Tensor, background: Tensor) -> Tensor:
        """The picture (C, H, W) that patches (T, I) in pixels make; pixels in no patch are those of `background`."""
        found = background.reshape(-1).to(patches).clone()
        found[self.pixels.reshape(-1)] = patches.reshape(-1)
        return found.view(background.shape)


@dataclass(frozen=True, kw_only=True)
class PatchEmbedding(PatchLayout):
    """A layout whose patches become tokens of D numbers, to which learned positions are added.

    The weight has D rows; `positions` is the name of a parameter (..., R, D), of which the patches' begin at row
    `first`.
    """

    positions: str
    first: int

    def errors_of(self, gradient: Tensor) -> Tensor:
        """The errors (T, D) of the patches' tokens, from the positions' gradient."""
        return gradient.reshape(-1, gradient.shape[-1])[self.first : self.first + self.tokens]


def find_embedding(
    model: nn.Module, state: ModelState, shape: ImageShape, check: EmbeddingCheck = EMBEDDING_CHECK
) -> PatchEmbedding:
    """The patch embedding and the positions of `model`; raises `InputError` where it has none.

    One picture runs forward and back through the network; `state` is left alone.
    """
    if couples_examples(model):
        raise InputError("BatchNorm in train mode mixes the images of a batch.")
    layout = find_layout(model, state, shape, check)
    for found in _checked(model, state, shape, layout, check):
        return found
    raise InputError(
        f"Layer {layout.layer!r} sees patches of the picture, but the gradient of no parameter holds the errors of "
        "their tokens: clients train no learned positions."
    )


def find_layout(
    model: nn.Module, state: ModelState, shape: ImageShape, check: EmbeddingCheck = EMBEDDING_CHECK
) -> PatchLayout:
    """How `model` cuts its picture into patches; raises `InputError` where its first layer does not see patches."""
    layer, seen = _first_layer(model, state, _probes(shape, state))
    laid_out = _layout(seen, shape, check)
    if laid_out is None:
        raise InputError(f"Layer {layer!r}, the first to see the picture, does not see patches of it.")
    pixels, scale, offset = laid_out
    return PatchLayout(layer=layer, pixels=pixels, scale=scale, offset=offset)


def _probes(shape: ImageShape, state: ModelState) -> Tensor:
    """Pictures (6, C, H, W) that tell which pixel a number comes from: 0, 1, its place on three axes, and a check."""
    channels, height, width = shape.size
    axes = torch.meshgrid(torch.arange(channels), torch.arange(height), torch.arange(width), indexing="ij")
    zero = torch.zeros(shape.size)
    placed = [axis / size for axis, size in zip(axes, shape.size, strict=True)]
    return torch.stack([zero, zero + 1, *placed, _random(shape)]).to(
        next(iter(state.parameters.values())).device
    )


class _Reached(Exception):
    """The first layer's input is there."""

    def __init__(self, layer: str, inputs: Tensor) -> None:
        super().__init__()
        self.layer, self.inputs = layer, inputs


@torch.no_grad()
def _first_layer(model: nn.Module, state: ModelState, images: Tensor) -> tuple[str, Tensor]:
    """The first linear layer or convolution that runs on images (N, C, H, W), and what it sees of each, (N, T, I)."""

    def stop(name: str, module: nn.Module, inputs: Tensor) -> None:
        raise _Reached(name, _unfolded(module, inputs))

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                hook = module.register_forward_pre_hook(
                    lambda module, inputs, name=name: stop(name, module, inputs[0])
                )
                hooks.callback(hook.remove)
        try:
            predict(model, state, images)
        except _Reached as reached:
            return reached.layer, reached.inputs
    raise InputError("The network has no linear layer and no convolution.")


def _unfolded(module: nn.Module, inputs: Tensor) -> Tensor:
    """What a layer multiplies its weight with, (N, T, I); empty where it sees no patches that lie side by side."""
    if isinstance(module, nn.Linear):
        return inputs if inputs.dim() == 3 else inputs.new_empty(0)
    assert isinstance(module, nn.Conv2d)
    apart = module.kernel_size == module.stride and not isinstance(module.padding, str)
    if (
        inputs.dim() != 4
        or not apart
        or any(module.padding)
        or module.groups != 1
        or max(module.dilation) > 1
    ):
        return inputs.new_empty(0)
    return functional.unfold(inputs, module.kernel_size, stride=module.kernel_size).mT


def _layout(seen: Tensor, shape: ImageShape, check: EmbeddingCheck) -> tuple[Tensor, Tensor, Tensor] | None:
    """`pixels`, `scale` and `offset` of a `PatchEmbedding` from what its layer sees of `_probes`; None without one."""
    if seen.dim() != 3 or len(seen) != 2 + len(shape.size) + 1:
        return None
    offset, scale = seen[0], seen[1] - seen[0]
    if not bool((scale != 0).all()):
        return None
    channel, row, column = (
        ((each - offset) / scale * size).round().long()
        for each, size in zip(seen[2:5], shape.size, strict=True)
    )
    pixels = (channel * shape.height + row) * shape.width + column
    if not bool(((pixels >= 0) & (pixels < shape.numbers)).all()):
        return None
    if len(pixels.unique()) < pixels.numel():
        return None
    explained = scale * _random(shape).to(seen).reshape(-1)[pixels] + offset
    alike = [(each - each[:1]).abs().max() for each in (scale, offset)]
    wrong = max(float((explained - seen[5]).abs().max()), *map(float, alike))
    return None if wrong > check.holds * float(scale.abs().max()) else (pixels, scale[0], offset[0])


def _random(shape: ImageShape) -> Tensor:
    """The last of `_probes`."""
    return torch.rand(shape.size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def _checked(
    model: nn.Module, state: ModelState, shape: ImageShape, found: PatchLayout, check: EmbeddingCheck
) -> Iterator[PatchEmbedding]:
    """`found` with each parameter whose gradient holds the errors of its tokens on a random picture."""
    draw = torch.Generator().manual_seed(0)
    moving = {name: value.detach() for name, value in state.parameters.items()}
    silent = [name for name, value in moving.items() if not bool(value.any())]
    moving |= {
        name: (torch.randn(moving[name].shape, generator=draw) * check.drawn).to(moving[name])
        for name in silent
    }
    wanted = [name for name, value in moving.items() if _could_be_positions(value, found.tokens, check)]
    wanted = [name for name in wanted if name != found.weight]
    if not wanted or found.weight not in moving:
        return
    picture = _random(shape).to(moving[found.weight])
    names = [found.weight, *wanted]
    moving |= {name: moving[name].requires_grad_(True) for name in names}
    with torch.enable_grad():
        logits = check_logits(
            predict(
                model, ModelState(parameters=moving, buffers=state.buffers).with_own_buffers(), picture[None]
            ),
            1,
        )
        loss = functional.cross_entropy(logits, torch.zeros(1, dtype=torch.int64, device=logits.device))
        gradients: tuple[Tensor | None, ...] = torch.autograd.grad(
            loss, [moving[name] for name in names], allow_unused=True
        )
    weight = gradients[0]
    if weight is None:
        return
    weight = weight.flatten(1)
    inputs = found.scale * found.patches_of(picture) + found.offset
    for name, gradient in zip(wanted, gradients[1:], strict=True):
        if gradient is None or gradient.shape[-1] != len(weight):
            continue
        rows = gradient.numel() // gradient.shape[-1]
        for first in {rows - found.tokens, 0}:
            candidate = PatchEmbedding(
                layer=found.layer,
                pixels=found.pixels,
                scale=found.scale,
                offset=found.offset,
                positions=name,
                first=first,
            )
            missed = torch.linalg.vector_norm(candidate.errors_of(gradient).mT @ inputs - weight)
            if float(missed) <= check.holds * float(torch.linalg.vector_norm(weight).clamp_min(TINY)):
                yield candidate


def _could_be_positions(value: Tensor, tokens: int, check: EmbeddingCheck) -> bool:
    """Whether a parameter has a row for each token, and few more."""
    if value.dim() < 2 or value.numel() == 0:
        return False
    rows = value.numel() // value.shape[-1]
    return value.shape[-2] == rows and tokens <= rows <= tokens + check.most_others
