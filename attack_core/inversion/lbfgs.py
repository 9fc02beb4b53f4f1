"""L-BFGS whose pairs of steps and gradient changes outlast a change of the preconditioner and of the prior's weight.

The direction is read from the compact form of the inverse (Byrd, Nocedal and Schnabel 1994), a few products with two
matrices in the place of hundreds of small ones. The line search is that of Nocedal and Wright (2006, chapter 3):
steps that satisfy the strong Wolfe conditions, by cubic interpolation.

Axes: m pairs, n unknowns. Points and gradients are float32 (n,); systems of m equations are solved in float64 on the
CPU, wherever the points are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from fl_core.base.device import exact

Note = TypeVar("Note")
Asked = TypeVar("Asked")
Seen = TypeVar("Seen")


@dataclass(frozen=True)
class Value(Generic[Note]):
    """The loss at a point, its gradient (n,), and what the caller wants to find there again."""

    loss: float
    gradient: Tensor
    note: Note


Evaluate = Callable[[Tensor], Generator[Asked, Seen, Value[Note]]]
"""From a point (n,) to the loss there, which asks whoever runs it for what it needs: searches can so share a batch."""


@dataclass(frozen=True, kw_only=True)
class LineSearchLimits:
    """When a step is accepted: the usual values for quasi-Newton directions (Nocedal and Wright 2006, section 3.1)."""

    decrease: float = 1e-4
    """The share of the decrease that the slope promises which a step has to bring."""
    curvature: float = 0.9
    """The share of the slope that may be left at its end."""
    least_curvature: float = 1e-12
    """Pairs whose step times change is no more than this share of the change's square are not kept."""
    trials: int = 25
    """Evaluations that one search may take."""
    least: float = 0.01
    """Where the loss still falls, a step grows at least by this share of how far it grew before."""
    most: float = 10.0
    """By what factor it grows at most."""
    margin: float = 0.1
    """A trial inside a bracket stays so far from its ends, as a share of its width."""


LINE_SEARCH_LIMITS = LineSearchLimits()
"""The limits in force."""


class Pairs:
    """At most `most` steps s (n,) with the gradient's change y (n,) along each; the oldest are forgotten first.

    A metric M turns gradients: the estimate of the inverse Hessian begins with a multiple of it. Kept are s and M y.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._first = self._count = 0
        self._new: list[Tensor] = []
        self._steps = self._changes = torch.empty((0, 0))
        self._products = self._squares = torch.empty((0, 0), dtype=torch.float64)

    def __len__(self) -> int:
        return self._count

    def add(
        self, step: Tensor, change: Tensor, turned: Tensor, limits: LineSearchLimits = LINE_SEARCH_LIMITS
    ) -> bool:
        """Keep a pair with M times its change, unless the loss is not convex along it: then False."""
        if not float(step @ change) > limits.least_curvature * float(change @ turned):
            return False
        if self._count == self._most:
            self._first, self._count = self._first + 1, self._count - 1
        self._make_room(step)
        at = self._first + self._count
        self._steps[at], self._changes[at] = step, turned
        self._count += 1
        self._new = [*self._new, change][-self._count :]
        return True

    def direction(self, gradient: Tensor, turned: Tensor) -> Tensor:
        """Minus the inverse Hessian's estimate times `gradient`; without pairs minus M times it, which is `turned`."""
        if not self._count:
            return -turned
        along, across = self._multiplied(gradient)
        kept = slice(self._first, self._first + self._count)
        upper, squares = self._products[kept, kept].triu(), self._squares[kept, kept]
        scale = float(upper[-1, -1] / squares[-1, -1])
        first = torch.linalg.solve_triangular(upper, along[:, None], upper=True)[:, 0]
        middle = upper.diagonal() * first + scale * (squares @ first) - scale * across
        second = torch.linalg.solve_triangular(upper.mT, middle[:, None], upper=False)[:, 0]
        weights = [each.to(gradient.dtype).to(gradient.device) for each in (second, scale * first)]
        found: Tensor = -scale * turned
        found -= self._steps[kept].t().mv(weights[0])
        found += self._changes[kept].t().mv(weights[1])
        return found

    def _multiplied(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Products of all steps and of all changes with `gradient`, (m,) each, in float64.

        Those with pairs that are new are noted on the way: the matrices are read once for both.
        """
        end = self._first + self._count
        kept, new = slice(self._first, end), slice(end - len(self._new), end)
        others = torch.stack([gradient, *self._new])
        # The few rows first: the other way round takes twice the time.
        along, across = (
            exact(functional.linear(others, each[kept]), "solving for L-BFGS's direction")
            for each in (self._steps, self._changes)
        )
        self._products[kept, new] = along[1:].mT
        self._squares[kept, new] = across[1:].mT
        self._squares[new, kept] = across[1:]
        self._new = []
        return along[0], across[0]

    def _make_room(self, like: Tensor) -> None:
        """Room for one pair more: twice as many rows as there can be pairs, so that they seldom have to move."""
        rows, end = len(self._steps), self._first + self._count
        if end < rows:
            return
        if not self._first:
            rows = min(max(2 * rows, 16), 2 * self._most)
        kept = slice(self._first, end)
        self._steps, self._changes = (
            _moved(each[kept], (rows, len(like)), like) for each in (self._steps, self._changes)
        )
        self._products, self._squares = (
            _moved(each[kept, kept], (rows, rows), each) for each in (self._products, self._squares)
        )
        self._first = 0


def _moved(kept: Tensor, shape: tuple[int, int], like: Tensor) -> Tensor:
    """`kept` in the upper left corner of a tensor of zeros, on the device and of the type of `like`."""
    found = like.new_zeros(shape)
    found[: kept.shape[0], : kept.shape[1]] = kept
    return found


def search(
    evaluate: Evaluate[Asked, Seen, Note],
    point: Tensor,
    at: Value[Note],
    direction: Tensor,
    first: float,
    limits: LineSearchLimits = LINE_SEARCH_LIMITS,
) -> Generator[Asked, Seen, tuple[float, Value[Note], int]]:
    """A step along `direction`, the value at its end, and how many evaluations that took.

    It asks what `evaluate` asks. The step `first` is tried first. Where no trial satisfies the conditions the step is
    the one of least loss, 0 where that is the point itself.
    """
    begun = _Trial(0.0, at, float(at.gradient @ direction))
    before, low, best = begun, begun, begun
    high: _Trial[Note] | None = None
    step, near = first, False
    for count in range(1, limits.trials + 1):
        value = yield from evaluate(point + step * direction)
        now = _Trial(step, value, float(value.gradient @ direction))
        if now.loss < best.loss:
            best = now
        enough = now.loss <= begun.loss + limits.decrease * step * begun.slope
        if not (enough and (now.loss < low.loss or low is begun)):
            high = now
        elif abs(now.slope) <= -limits.curvature * begun.slope:
            return step, value, count
        else:
            ahead = math.inf if high is None else high.step - low.step
            if now.slope * ahead >= 0.0:
                high = low
            before, low = low, now
        if high is None:
            step = _beyond(before, low, limits)
        else:
            step, near = _inside(low, high, near, limits)
    return best.step, best.value, limits.trials


@dataclass(frozen=True)
class _Trial(Generic[Note]):
    step: float
    value: Value[Note]
    slope: float

    @property
    def loss(self) -> float:
        return self.value.loss


def _inside(
    low: _Trial[Note], high: _Trial[Note], near: bool, limits: LineSearchLimits
) -> tuple[float, bool]:
    """The next trial between two steps that have a good one between them, and whether it is near one of them.

    `near` says so of the trial before: two in turn would close the bracket too slowly.
    """
    left, right = sorted((low.step, high.step))
    room = limits.margin * (right - left)
    step = _cubic(low, high, left, right)
    if left + room <= step <= right - room:
        return step, False
    if near or step in (left, right):
        return (left + room if step - left < right - step else right - room), False
    return step, True


def _beyond(before: _Trial[Note], low: _Trial[Note], limits: LineSearchLimits) -> float:
    """The next trial where the loss still falls."""
    least = low.step + limits.least * (low.step - before.step)
    return _cubic(before, low, least, limits.most * low.step)


def _cubic(one: _Trial[Note], two: _Trial[Note], left: float, right: float) -> float:
    """Where between `left` and `right` the cubic with both losses and slopes is least; their middle for none such."""
    gap = two.step - one.step
    if not gap or not math.isfinite(two.loss):
        return 0.5 * (left + right)
    bend = one.slope + two.slope - 3.0 * (two.loss - one.loss) / gap
    square = bend * bend - one.slope * two.slope
    if square < 0.0:
        return 0.5 * (left + right)
    root = math.copysign(math.sqrt(square), gap)
    below = two.slope - one.slope + 2.0 * root
    if not below:
        return 0.5 * (left + right)
    return min(max(two.step - gap * (two.slope + root - bend) / below, left), right)
