"""A layer's inputs as a representation of images, and how much each of them reacts to the images."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from fl_core.base.decibels import TINY
from fl_core.base.errors import InputError
from fl_core.base.rng import Random, normal
from fl_core.base.types import ModelState
from fl_core.models.forward import layer_input

Representation: TypeAlias = Callable[[Tensor], Tensor]
"""From images (B, 3, S, S) to a layer's inputs (B, I)."""

_ROWS = 64
"""Rows of the Jacobian that are computed together."""
_TOGETHER = 4
"""Directions that are; more of them do not go faster."""


def defended_layer(model: nn.Module, which: Literal["first", "last"]) -> str:
    """The name of the first or the last of the `fully_connected` layers; raises what that raises."""
    return fully_connected(model)[0 if which == "first" else -1]


def kept(slopes: Tensor, ratio: float) -> Tensor:
    """Which of the layer's inputs (I,) stay: all but the share of the smallest slopes, of which the first go."""
    order = slopes.cpu().argsort(stable=True)
    stays = torch.ones(len(slopes), dtype=torch.bool)
    stays[order[: round(ratio * len(slopes))]] = False
    return stays.to(slopes.device)


def slopes(
    model: nn.Module, state: ModelState, layer: str, images: Tensor, *, probes: int | None, random: Random
) -> Tensor:
    """How much each of the layer's inputs reacts to the images, relative to itself, (I,); estimated with `probes`."""
    of = partial(representation, model, state.detached(), layer)
    if probes is None:
        norms, found = jacobian_norms(of, images)
    else:
        norms, found = probed_norms(of, images, probes, random)
    return (norms / found.abs().clamp_min(TINY)).sum(0)


def fully_connected(model: nn.Module) -> list[str]:
    """The names of the fully connected layers that clients train, first to last.

    Raises `InputError` where there is none.
    """
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    names = [name for name, module in layers if "weight" in module._parameters]
    if not names:
        raise InputError("Soteria defends a fully connected layer, and clients train none of this network's.")
    return names


def representation(model: nn.Module, state: ModelState, layer: str, images: Tensor) -> Tensor:
    """The inputs (B, I) of `layer` for `images` (B, 3, S, S), differentiable; `state` stays as it is.

    Raises `InputError` for a layer that sees several vectors of each image, as in a transformer.
    """
    found = layer_input(model, state.with_own_buffers(), layer, images)
    if found.dim() != 2:
        raise InputError(
            f"Soteria cuts inputs of a layer that sees one vector of each image; {layer!r} sees several. Use another "
            "`layer`, first or last."
        )
    return found


def jacobian_norms(of: Representation, images: Tensor) -> tuple[Tensor, Tensor]:
    """||dr_i/dx|| for each image and entry, (B, I), and the representation r itself, (B, I)."""
    point = images.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        found = of(point)
    count, entries = found.shape
    norms = torch.zeros_like(found)
    for start in range(0, entries, _ROWS):
        rows = min(_ROWS, entries - start)
        chosen = found.new_zeros(rows, count, entries)
        chosen[range(rows), :, range(start, start + rows)] = 1.0
        (slopes,) = torch.autograd.grad(found, point, chosen, retain_graph=True, is_grads_batched=True)
        norms[:, start : start + rows] = slopes.flatten(2).norm(dim=2).mT
    return norms.detach(), found.detach()


def probed_norms(of: Representation, images: Tensor, probes: int, random: Random) -> tuple[Tensor, Tensor]:
    """What `jacobian_norms` gives, from the mean square of the slope along `probes` random directions."""
    found = of(images)
    squares = torch.zeros_like(found)

    def slope(direction: Tensor) -> Tensor:
        along: Tensor = torch.func.jvp(of, (images,), (direction,))[1]
        return along

    for start in range(0, probes, _TOGETHER):
        count = min(_TOGETHER, probes - start)
        directions = torch.stack([normal(random, images.shape) for _ in range(count)])
        squares += torch.vmap(slope)(directions.to(images)).square().sum(0)
    return (squares / probes).sqrt().detach(), found.detach()
