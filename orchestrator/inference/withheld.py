"""Whether layers of a signal, or columns of a layer, are missing: zeros where public pictures leave none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from defenses.compression.representation import fully_connected
from defenses.mechanism.base import Mechanism, Stage
from fl_core.base.errors import InputError
from fl_core.base.rng import Random
from fl_core.base.types import ClientUpdate, Tensors
from fl_core.federation.client import loss_gradient
from fl_core.federation.rounds import FederationConfig
from fl_core.models.forward import layer_input
from fl_core.threat.facts import Fact, InTheClear
from orchestrator.library.network import Subject

_PICTURES = 64
"""So many public pictures are looked at."""
_MORE = 0.1
"""A layer's columns were cut where the share of zero ones is larger by this than any public picture's."""
_SCATTERED = 0.5
"""Where a larger share of the columns that are left is 0 too, single numbers are missing."""


@dataclass(frozen=True, kw_only=True)
class Unsent(Mechanism):
    """Parameters that were not sent, or not trained, which the signal has as 0; `shapes` are all of the network's."""

    stage: ClassVar[Stage] = "compress"
    kind: str = "unsent"
    names: tuple[str, ...]
    shapes: Mapping[str, tuple[int, ...]]

    def on_update(self, update: ClientUpdate, random: Random, plan: FederationConfig) -> ClientUpdate:  # noqa: ARG002
        """Send zeros for them; see `Mechanism.on_update`."""
        zeros = {name: torch.zeros_like(update.tensors[name]) for name in self.names}
        return replace(update, tensors={**update.tensors, **zeros})

    def facts(self, plan: FederationConfig) -> tuple[Fact, ...]:  # noqa: ARG002
        """See `Mechanism.facts`."""
        masks = {
            name: torch.full(shape, name not in self.names, dtype=torch.bool)
            for name, shape in self.shapes.items()
        }
        return (InTheClear(masks=masks),)


@dataclass(frozen=True, kw_only=True)
class CutColumns:
    """The share of zero columns of a fully connected layer's weight, and the largest that public pictures leave."""

    layer: Literal["first", "last"]
    name: str
    share: float
    usual: float


def seen_unsent(network: Subject, tensors: Tensors, pictures: Tensor) -> Unsent | None:
    """The parameters of which zeros alone were sent though public `pictures` (N, C, H, W) in [-1, 1] move them."""
    empty = [name for name, value in tensors.items() if not bool(value.any())]
    if not empty or len(empty) == len(tensors):
        return None
    images = pictures[:_PICTURES].to(network.device)
    classes = torch.arange(len(images), device=network.device) % network.classes
    with torch.enable_grad():
        moved = loss_gradient(network.model, network.state, (images, classes))
    names = tuple(name for name in empty if bool(moved[name].any()))
    if not names:
        return None
    shapes = {name: tuple(value.shape) for name, value in network.state.parameters.items()}
    return Unsent(names=names, shapes=shapes)


def seen_cut_columns(network: Subject, tensors: Tensors, pictures: Tensor) -> CutColumns | None:
    """The first or last fully connected layer, where more of its columns are 0 than any public picture leaves.

    A column is 0 without a defense where the layer's input is 0 for every image, so that several images have fewer.
    """
    try:
        layers = fully_connected(network.model)
    except InputError:
        return None
    places: dict[str, Literal["first", "last"]] = {layers[-1]: "last", layers[0]: "first"}
    for layer, place in places.items():
        weight = tensors[f"{layer}.weight"]
        share = float((~weight.bool().any(dim=0)).float().mean())
        if share <= _MORE or share == 1 or _scattered(weight):
            continue
        try:
            inputs = layer_input(
                network.model,
                network.state.with_own_buffers(),
                layer,
                pictures[:_PICTURES].to(network.device),
            )
        except AssertionError:
            continue
        if inputs.dim() != 2:
            continue
        usual = float((inputs == 0).float().mean(dim=1).max())
        if share > usual + _MORE:
            return CutColumns(layer=place, name=f"{layer}.weight", share=share, usual=usual)
    return None


def _scattered(weight: Tensor) -> bool:
    left = weight[weight.any(dim=1)][:, weight.any(dim=0)]
    return float((left == 0).float().mean()) > _SCATTERED
