"""Layers that compute by another function for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from torch import Tensor, nn

Layer = TypeVar("Layer", bound=nn.Module)


@contextmanager
def replaced(
    layers: Sequence[Layer], method: str, by: Callable[[Layer], Callable[..., Tensor]]
) -> Iterator[None]:
    """While it lasts, the `method` of each of these layers, so far its class's, is what `by` makes of the layer."""
    for layer in layers:
        vars(layer)[method] = by(layer)
    try:
        yield
    finally:
        for layer in layers:
            vars(layer).pop(method, None)
