"""A network's map from one image to what was read of it, as it is at that image: applied, never formed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from attack_core.base.least_squares import LeastSquares, solve_least_squares
from attack_core.gradients.refusals import second_derivatives
from attack_core.inversion.descent.cosine import CosinePreconditioner

Seen = Callable[[Tensor], Tensor]
"""From images (B, C, H, W) to what was read of them (B, I)."""


@dataclass(frozen=True)
class Linearised:
    """The slopes of `seen` at one image (1, C, H, W), by `coordinates` that suit them; `value` (1, I) is `seen` there.

    `back` (1, C, H, W) is the adjoint's product with `cotangent` (1, I), as a graph: its own slope is the map.
    """

    image: Tensor
    value: Tensor
    coordinates: CosinePreconditioner
    point: Tensor
    graph: Tensor
    cotangent: Tensor
    back: Tensor

    @classmethod
    def at(cls, seen: Seen, image: Tensor, generator: torch.Generator) -> Self:
        """At `image`; raises `InputError` where an operation of the network has no second derivative."""
        coordinates = CosinePreconditioner.measured(seen, image, generator)
        point = image.detach().clone().requires_grad_(True)
        with torch.enable_grad(), second_derivatives():
            graph = seen(point)
            cotangent = torch.zeros_like(graph).requires_grad_(True)
            (back,) = torch.autograd.grad(graph, point, cotangent, create_graph=True)
        return cls(point.detach(), graph.detach(), coordinates, point, graph, cotangent, back)

    def forward(self, scaled: Tensor) -> Tensor:
        """What a change of the image, in scaled coefficients (1, C, H, W), changes of what is seen (1, I)."""
        (found,) = torch.autograd.grad(
            self.back, self.cotangent, self.coordinates.images(scaled), retain_graph=True
        )
        return found

    def adjoint(self, seen: Tensor) -> Tensor:
        """The transpose: from (1, I) to scaled coefficients (1, C, H, W)."""
        (found,) = torch.autograd.grad(self.graph, self.point, seen, retain_graph=True)
        return self.coordinates.gradient(found)

    def solve(self, wanted: Tensor, *, turns: int, enough: Callable[[Tensor], bool]) -> LeastSquares:
        """The change, in scaled coefficients, that comes nearest to `wanted` (1, I)."""
        return solve_least_squares(self.forward, self.adjoint, wanted, turns=turns, enough=enough)
