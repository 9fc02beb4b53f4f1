"""Functions of tensors that an attack computes again and again, and what runs them."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

Values = tuple["Tensor", ...]
"""What goes into a program or comes out of it."""


class Program(Protocol):
    """A function of tensors of fixed shapes that does the same operations each time, and reads no number from them."""

    @property
    def key(self) -> Hashable:
        """What decides the operations; equal for programs that do the same, while one of them is there."""

    def __call__(self, *inputs: Tensor) -> Values:
        """What is computed, without a slope."""


Runner = Callable[[Program, Values], Values]
"""Runs a program on its inputs."""


def as_it_is(program: Program, inputs: Values) -> Values:
    """Operation by operation."""
    return program(*inputs)
