"""Soteria: pruning of the representation that reveals the image (Sun et al., CVPR 2021, arXiv:2012.06043)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor, nn

from defenses.mechanism.base import Mechanism, Stage
from fl_core.base.decibels import TINY
from fl_core.base.errors import InputError
from fl_core.base.rng import Random, normal
from fl_core.base.types import InUnits, ModelState, require
from fl_core.federation.client import Batch, GradientRule
from fl_core.federation.rounds import FederationConfig
from fl_core.models.build import build_model
from fl_core.models.config import ModelConfig
from fl_core.models.forward import layer_input
from fl_core.threat.facts import Fact, PrunedRepresentation

Representation = Callable[[Tensor], Tensor]
"""From images (B, 3, S, S) to a layer's inputs (B, I)."""

_ROWS = 64
"""Rows of the Jacobian that are computed together."""
_TOGETHER = 4
"""Directions that are; more of them do not go faster."""


@dataclass(frozen=True, kw_only=True)
class Soteria(Mechanism):
    """Zero the columns of a fully connected layer's weight gradient at the inputs that expose the image most.

    The layer's input r is the representation. Cutting its entry i moves the image that explains it by about
    |r_i| / ||dr_i/dx||. So the share `ratio` of entries whose ||dr_i/dx|| / |r_i|, summed over the batch, is smallest
    is cut from the layer's weight gradient; the rest of the gradient stays as it is. Entries that no pixel moves go
    first, as in the authors' code. `layer` is the first or the last fully connected one.

    The Jacobian's norms take one backward pass for each entry, 64 at a time; with `probes` they are estimated from so
    many random directions instead, right on average in their squares, at a relative error of about 1 / sqrt(2 probes).
    Where BatchNorm couples the images of a batch, an entry's norm counts what each image does to all.
    """

    stage: ClassVar[Stage] = "gradient"
    kind: Literal["soteria"] = "soteria"
    ratio: Annotated[float, InUnits("share")] = 0.8
    layer: Literal["first", "last"] = "first"
    probes: Annotated[int | None, InUnits("directions")] = None

    def __post_init__(self) -> None:
        require(0 < self.ratio < 1, self, "ratio", "in (0, 1)")
        few = self.probes is None or self.probes >= 1
        require(few, self, "probes", "at least 1, or null for the exact norms")

    def on_model(self, model: ModelConfig) -> ModelConfig:
        """See `Mechanism.on_model`; raises `InputError` for a network of the zoo without a layer that it can defend."""
        network = build_model(model)
        layer = self._defended(network)
        if model.kind != "own":
            # Networks of the user's own need not run without values; theirs is checked when it runs.
            nothing = ModelState(
                parameters=dict(network.named_parameters()), buffers=dict(network.named_buffers())
            )
            representation(network, nothing, layer, model.shape.empty(2, "meta"))
        return model

    def on_gradient(self, rule: GradientRule, random: Random, plan: FederationConfig) -> GradientRule:
        """Cut; see `Mechanism.on_gradient`. Raises `InputError` for a network without a fully connected layer."""

        def defended(model: nn.Module, state: ModelState, batch: Batch) -> dict[str, Tensor]:
            layer = self._defended(model)
            slopes = self._slopes(model, state, layer, batch[0], random)
            gradients = rule(model, state, batch)
            name = f"{layer}.weight"
            return gradients | {name: torch.where(self._kept(slopes), gradients[name], 0.0)}

        return defended

    def facts(self, plan: FederationConfig) -> tuple[Fact, ...]:
        """See `Mechanism.facts`."""
        return (PrunedRepresentation(layer=self.layer),)

    def _defended(self, model: nn.Module) -> str:
        return fully_connected(model)[0 if self.layer == "first" else -1]

    def _kept(self, slopes: Tensor) -> Tensor:
        """Which of the layer's inputs (I,) stay: all but those of the smallest slopes, of which the first go."""
        order = slopes.cpu().argsort(stable=True)
        kept = torch.ones(len(slopes), dtype=torch.bool)
        kept[order[: round(self.ratio * len(slopes))]] = False
        return kept.to(slopes.device)

    def _slopes(
        self, model: nn.Module, state: ModelState, layer: str, images: Tensor, random: Random
    ) -> Tensor:
        """How much each of the layer's inputs reacts to the images, relative to itself, (I,)."""
        of = partial(representation, model, state.detached(), layer)
        if self.probes is None:
            norms, found = jacobian_norms(of, images)
        else:
            norms, found = probed_norms(of, images, self.probes, random)
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
