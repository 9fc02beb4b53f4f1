"""Small updates for tests of secure sums, and what their exact mean is."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch

from fl_core.base.rng import generator
from fl_core.base.types import ClientUpdate, Tensors

SHAPES = {"conv.weight": (3, 2, 3, 3), "fc.bias": (7,), "bn.running_mean": (), "empty": (0, 4)}


def small_tensors(clients: Collection[int], *, scale: float = 1.0) -> dict[int, dict[str, torch.Tensor]]:
    """A few dozen numbers for each client, a scalar and an empty tensor among them."""
    return {
        client: {
            name: scale * torch.randn(shape, generator=generator("update", client, name))
            for name, shape in SHAPES.items()
        }
        for client in clients
    }


def as_updates(tensors: Mapping[int, Tensors]) -> list[ClientUpdate]:
    """Updates of clients that hold one image each, so that all weigh the same."""
    return [
        ClientUpdate(client=client, tensors=each, examples=1, steps=1, lr=0.1, momentum=0.0)
        for client, each in tensors.items()
    ]


def exact_mean(updates: Mapping[int, Tensors], precision: int) -> dict[str, torch.Tensor]:
    """The mean of the updates' fixed-point numbers, by whole-number arithmetic."""
    first = next(iter(updates.values()))
    return {
        name: (
            torch.stack([(update[name].double() * precision).round().long() for update in updates.values()])
            .sum(dim=0)
            .double()
            / precision
            / len(updates)
        ).float()
        for name in first
    }
