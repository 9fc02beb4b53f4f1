"""The stages of a continuation: L-BFGS under a prior whose weight falls, and where each stage and all of them end."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from attack_core.base.search import Found
from attack_core.base.types import AttackFailed
from attack_core.evidence.cross_validation import Residuals, chosen, evidence
from attack_core.inversion.descent.given import EachMismatch, Measure, Mismatch, Penalty
from attack_core.inversion.descent.limits import ContinuationLimits
from attack_core.inversion.descent.metric import Metric
from attack_core.inversion.lbfgs import Pairs, Value, search
from attack_core.inversion.together import Descent, Point, look, run
from fl_core.base.decibels import TINY


def alone(path: Descent[Found], mismatch: Mismatch, penalty: Penalty) -> Found:
    """The answer of a search that has no others beside it."""
    (found,) = run([path], lambda images, _: look(mismatch, penalty, images, 1))
    return found


def together(paths: Sequence[Descent[Tensor]], mismatch: EachMismatch, penalty: Penalty, most: int) -> Tensor:
    """The answers (B, C, H, W) of searches for an image each, of which so many at `most` are in one batch."""
    found: list[Tensor] = []
    for first in range(0, len(paths), most):
        found += run(paths[first : first + most], partial(_answer, mismatch, penalty, first))
    return torch.cat(found)


def _answer(
    mismatch: EachMismatch, penalty: Penalty, first: int, images: Tensor, waiting: Sequence[int]
) -> list[Point]:
    """What the problems `first` + `waiting` find at their images, (n, C, H, W)."""
    problems = [first + number for number in waiting]
    return look(lambda images: mismatch(images, problems), penalty, images, len(problems))


@dataclass(frozen=True, kw_only=True)
class Stages:
    """What the stages of a continuation share: the fields of `Continuation`, and who is told of each evaluation."""

    evaluations: int
    memory: int
    report: Callable[[float], None]
    limits: ContinuationLimits

    def path(
        self, start: Tensor, weights: Sequence[float], *, measure: Measure | None, error: float
    ) -> Descent[Tensor]:
        """The search of `Continuation.minimise`, a stage for each of the prior's `weights`."""
        images = start.detach()
        moves: deque[Move] = deque(maxlen=self.limits.carried)
        left = self.evaluations // len(weights) * len(weights)
        again = error > 0 or self.limits.measures_again
        metric: Metric | None = None
        for stage, weight in enumerate(weights):
            stages = len(weights) - stage
            count = left // stages
            if measure is not None and (stage == 1 or (stage and again)):
                metric = measure(images, count if again else left)
            reached = yield from self.one(images, metric, weight, count, moves, last=stages == 1)
            images = reached.images
            left -= count if self.limits.settling is None else min(reached.used, count)
            if reached.match < error or reached.hopeless:
                break
        return images

    def followed(
        self,
        start: Tensor,
        weights: Sequence[float],
        count: int,
        mismatch: Mismatch,
        penalty: Penalty,
        residuals: Residuals,
        measure: Measure | None,
    ) -> Tensor:
        """The images of `Continuation.follow`, of a stage of `count` evaluations for each of the prior's `weights`."""
        path, left, found = [start], [residuals(start)], [0.0]
        for stage, weight in enumerate(weights):
            best = found.index(max(found))
            if 0 < best <= stage - self.limits.patience:
                break  # Before any evidence has been found the way goes on: faint signals show late.
            metric = measure(path[-1], count) if measure is not None and stage > 0 else None
            nothing: deque[Move] = deque(maxlen=0)
            images = alone(self.one(path[-1], metric, weight, count, nothing), mismatch, penalty).images
            path.append(images)
            left.append(residuals(images))
            found.append(evidence(left[0], left[-1]))
        return path[chosen(left)]

    def one(
        self,
        start: Tensor,
        metric: Metric | None,
        weight: float,
        evaluations: int,
        moves: deque[Move],
        *,
        last: bool = False,
    ) -> Descent[Reached]:
        """One stage of a prior's `weight`, the `last` one or not, as a part of a search.

        `moves` are the last of stages before; this one's are added.
        """
        limits = self.limits

        def evaluate(moved: Tensor) -> Descent[Value[Point]]:
            point = yield start + moved.view(start.shape)
            total = limits.scale * (point.match + weight * point.variation)
            if math.isfinite(total):
                self.report(point.match)
            gradient = limits.scale * (point.data + weight * point.prior)
            return Value(total if math.isfinite(total) else math.inf, gradient.flatten(), point)

        def turned(gradient: Tensor) -> Tensor:
            return gradient if metric is None else metric.turned(gradient.view(start.shape)).flatten()

        pairs = Pairs(self.memory)
        for move in moves:
            change = (limits.scale * (move.data + weight * move.prior)).flatten()
            pairs.add(move.step.flatten(), change, turned(change))
        moved = torch.zeros(start.numel(), device=start.device)
        value, used = (yield from evaluate(moved)), 1
        if math.isinf(value.loss):
            raise AttackFailed("The mismatch is not finite.")
        slope = turned(value.gradient)
        seen = deque([value.note.match], maxlen=limits.still + 1)
        while used < evaluations and not (limits.hopeless(seen) or limits.settled(seen, last=last)):
            direction = pairs.direction(value.gradient, slope)
            if not float(direction @ value.gradient) < 0.0:
                pairs, direction = Pairs(self.memory), -slope
            first = 1.0
            if not len(pairs):
                first = min(1.0, 1.0 / max(float((slope * value.gradient).abs().sqrt().sum()), TINY))
            step, after, count = yield from search(evaluate, moved, value, direction, first)
            used += count
            if not step:
                if not len(pairs):
                    break
                pairs = Pairs(self.memory)
                continue
            ahead = turned(after.gradient)
            pairs.add(step * direction, after.gradient - value.gradient, ahead - slope)
            old, new = value.note, after.note
            moves.append(Move(new.images - old.images, new.data - old.data, new.prior - old.prior))
            moved, value, slope = moved + step * direction, after, ahead
            seen.append(new.match)
        return Reached(value.note.images, value.note.match, limits.hopeless(seen), used)


@dataclass(frozen=True)
class Reached:
    """Where a stage ended: the images, their mismatch, whether going on is `hopeless`, and the evaluations `used`."""

    images: Tensor
    match: float
    hopeless: bool
    used: int


@dataclass(frozen=True)
class Move:
    """A step in pixels, with the changes of the mismatch's and of the prior's gradient along it, (B, C, H, W) each."""

    step: Tensor
    data: Tensor
    prior: Tensor
