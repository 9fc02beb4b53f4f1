"""Where in a network a trained layer sees all tokens, of which each depends on its own patch alone.

In a transformer that is the first attention's layer of queries, keys and values: a norm stands in front of it, and
nothing that mixes tokens. Nothing is read off names or classes of blocks: a picture is changed in one patch, and one
token has to move.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attack_core.gradients.tracing import couples_examples
from attack_core.tokens.embedding import PatchLayout, find_layout
from fl_core.base.errors import InputError
from fl_core.base.shape import ImageShape
from fl_core.base.types import ModelState
from fl_core.models.forward import layer_inputs


@dataclass(frozen=True, kw_only=True)
class SpanningCheck:
    """When a layer is taken."""

    alone: float = 1e-6
    """Tokens depend on one patch each where another patch moves them by less than this share of what their own does."""
    linear: float = 1e-4
    """Tokens are linear in their patches up to this relative error; float32 leaves 1e-7 to 1e-6."""
    drawn: float = 0.4
    """The standard deviation of the picture that is changed, in normalised pixels: about that of photographs."""


SPANNING_CHECK = SpanningCheck()
"""The check in force."""


@dataclass(frozen=True, kw_only=True)
class SpanningLayer:
    """A layer, `name`, that sees `tokens` vectors of a picture; those of the patches of `layout` begin at row `first`.

    `weight` (O, D) and `bias` (O,) are names of parameters; `bias` is None where clients train none. `norm` is the name
    of the LayerNorm or RMSNorm in front of it, which sees tokens that are linear in their patches; where it is None,
    the layer itself sees such tokens.
    """

    name: str
    weight: str
    bias: str | None
    norm: str | None
    layout: PatchLayout
    first: int
    tokens: int

    def before_norm(self, model: nn.Module, state: ModelState, pictures: Tensor) -> Tensor:
        """The patches' tokens (N, T, D) of `pictures` (N, C, H, W), linear in the pixels but for a constant."""
        seen = layer_inputs(model, state, (self.norm or self.name,), pictures)[0]
        return _tokens(seen, len(pictures))[:, self.first : self.first + self.layout.tokens]

    def moves(self, model: nn.Module, state: ModelState, shape: ImageShape) -> bool:
        """Whether what the layer sees depends on parameters that clients train."""
        leaves = {name: value.detach().requires_grad_(True) for name, value in state.parameters.items()}
        moving = ModelState(parameters=leaves, buffers=state.buffers).with_own_buffers()
        picture = torch.zeros((1, *shape.size), device=self.layout.pixels.device)
        with torch.enable_grad():
            return layer_inputs(model, moving, (self.name,), picture)[0].requires_grad


def find_spanning(
    model: nn.Module, state: ModelState, shape: ImageShape, check: SpanningCheck = SPANNING_CHECK
) -> SpanningLayer:
    """The first trained layer whose rows span its tokens; raises `InputError` where there is none.

    Each patch has as many equations as the layer has inputs more than tokens; they have to be enough for its numbers.
    """
    if couples_examples(model):
        raise InputError("BatchNorm in train mode mixes the images of a batch.")
    layout = find_layout(model, state, shape)
    patch = layout.tokens // 2
    pictures = _changed(shape, layout, patch, check)
    why: list[str] = []
    for name, weight, bias in _trained(model, state):
        if name == layout.layer:
            continue
        tokens = _seen(model, state, name, pictures)
        if tokens is None or tokens.shape[1] < layout.tokens:
            continue
        moved = torch.linalg.vector_norm(tokens[1] - tokens[0], dim=1)
        row = int(moved.argmax())
        if int((moved > check.alone * moved[row]).sum()) > 1:
            why.append(f"the tokens that layer {name!r} sees depend on several patches each")
            continue
        count, inputs = tokens.shape[1], tokens.shape[2] + (bias is not None)
        numbers = layout.pixels.shape[1]
        outputs = len(state.parameters[weight])
        if outputs <= count:
            why.append(
                f"layer {name!r} has {outputs} outputs for {count} tokens, whose errors hide each other"
            )
            continue
        if inputs < count + numbers:
            # What is open then is what pictures consist of: each patch may be any mixture of all.
            why.append(
                f"layer {name!r} has {tokens.shape[2]} inputs, fewer than {count} tokens and the {numbers} numbers of "
                "a patch together"
            )
            continue
        first = row - patch
        if not 0 <= first <= count - layout.tokens:
            continue
        found = SpanningLayer(
            name=name,
            weight=weight,
            bias=bias,
            norm=_norm_before(model, state, name, pictures),
            layout=layout,
            first=first,
            tokens=count,
        )
        if _is_linear(found, model, state, pictures, check):
            return found
        why.append(f"the tokens that layer {name!r} sees are not linear in their patches, nor normed so")
    # The first one is nearest to the picture.
    raise InputError(f"{why[0] if why else 'clients train no layer that sees the tokens of patches'}.")


def _changed(shape: ImageShape, layout: PatchLayout, patch: int, check: SpanningCheck) -> Tensor:
    """A random picture, and the same with another `patch`: (2, C, H, W)."""
    picture = torch.randn(shape.size, generator=torch.Generator().manual_seed(0)) * check.drawn
    changed = picture.reshape(-1).clone()
    changed[layout.pixels[patch].cpu()] *= -1.0
    return torch.stack([picture, changed.view(shape.size)]).to(layout.pixels.device)


def _trained(model: nn.Module, state: ModelState) -> Iterator[tuple[str, str, str | None]]:
    """Layers that multiply what they see with a trained matrix: their names, and those of weight and trained bias."""
    for name, module in model.named_modules():
        kinds = ("in_proj_weight", "in_proj_bias") if isinstance(module, nn.MultiheadAttention) else None
        if isinstance(module, nn.Linear):
            kinds = ("weight", "bias")
        if kinds is None:
            continue
        weight, bias = (f"{name}.{kind}" if name else kind for kind in kinds)
        if weight in state.parameters:
            yield name, weight, bias if bias in state.parameters else None


@torch.no_grad()
def _norm_before(model: nn.Module, state: ModelState, name: str, pictures: Tensor) -> str | None:
    """The norm whose output is what layer `name` is given; None where there is none."""
    made: list[tuple[str, Tensor]] = []
    with ExitStack() as hooks:
        for each, module in model.named_modules():
            if isinstance(module, nn.LayerNorm | nn.RMSNorm):
                hook = module.register_forward_hook(
                    lambda module, inputs, output, each=each: made.append((each, output))  # noqa: ARG005
                )
                hooks.callback(hook.remove)
        given = layer_inputs(model, state.with_own_buffers(), (name,), pictures)[0]
    return next((each for each, output in made if output is given), None)


@torch.no_grad()
def _is_linear(
    layer: SpanningLayer, model: nn.Module, state: ModelState, pictures: Tensor, check: SpanningCheck
) -> bool:
    """Whether tokens in front of the norm are linear in the pixels but for a constant."""
    one, other = pictures
    both = torch.stack([one + other, one, other, torch.zeros_like(one)])
    summed, *parts, zero = layer.before_norm(model, state, both)
    missed = torch.linalg.vector_norm(summed + zero - parts[0] - parts[1])
    return float(missed) <= check.linear * float(torch.linalg.vector_norm(summed))


@torch.no_grad()
def _seen(model: nn.Module, state: ModelState, name: str, pictures: Tensor) -> Tensor | None:
    """The tokens (N, T, D) that a layer sees of N pictures; None where it is not called, or sees none."""
    try:
        inputs = layer_inputs(model, state.with_own_buffers(), (name,), pictures)[0]
    except AssertionError:
        return None
    return _tokens(inputs, len(pictures)) if inputs.dim() == 3 else None


def _tokens(inputs: Tensor, pictures: int) -> Tensor:
    """Inputs (N, T, D) or (T, N, D) of so many pictures, as the first."""
    return inputs if len(inputs) == pictures else inputs.transpose(0, 1)
