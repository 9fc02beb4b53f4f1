"""Losses and slopes of restarts: asked of their problem, answered together with those of other problems."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from attack_core.base.programs.program import Program, Runner
from attack_core.base.search import Question, Search, asked
from attack_core.gradients.refusals import second_derivatives
from attack_core.matching.loop.problem import Problem
from attack_core.matching.loop.restarts import Candidates, Scores


@dataclass(frozen=True)
class Slopes:
    """Matching losses (A,), and gradients: by images (A, B, 3, S, S), by logits (A, B, K), by `leaves` in order."""

    losses: Tensor
    images: Tensor
    logits: Tensor | None
    leaves: tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class Evaluation(Question[Slopes]):
    """Asks for the `Slopes` of a problem's candidates `which`; those of other problems on one point go together."""

    problem: Problem
    images: Tensor
    logits: Tensor | None
    which: list[int]

    @property
    def kin(self) -> Hashable | None:
        """See `Question.kin`."""
        if self.problem.point is None:
            return None
        return self.images.shape[1:], self.logits is not None

    @property
    def ground(self) -> object:
        """See `Question.ground`."""
        return self.problem.point

    @classmethod
    def answers(cls, questions: Sequence[Self], runner: Runner) -> list[Slopes]:
        """See `Question.answers`: one pass of all candidates, and each problem's losses from its part of that."""
        program = _Slopes(tuple((question.problem, tuple(question.which)) for question in questions))
        images = torch.cat([question.images for question in questions])
        soft = [question.logits for question in questions if question.logits is not None]
        found, by_images, *others = runner(program, (images, torch.cat(soft)) if soft else (images,))
        by_logits = others.pop(0).split(program.counts) if soft else [None] * len(questions)
        each = zip(found.split(program.counts), by_images.split(program.counts), by_logits, strict=True)
        # Problems with leaves of their own are evaluated alone.
        return [Slopes(*own, tuple(others)) for own in each]


@dataclass(frozen=True, eq=False)
class _Slopes(Program):
    """Matching losses of several problems' candidates, and their slopes: a `Program` of images and logits."""

    parts: tuple[tuple[Problem, tuple[int, ...]], ...]
    """Problems, each with which of its candidates are evaluated."""

    @property
    def key(self) -> Hashable:
        """See `Program`."""
        return tuple((id(problem), which) for problem, which in self.parts)

    @property
    def counts(self) -> list[int]:
        """How many candidates each problem has here."""
        return [len(which) for _, which in self.parts]

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Of images (A, B, 3, S, S) and, where there are any, logits (A, B, K): losses (A,), and slopes by each input.

        Then the slopes by the problems' own leaves, in order.
        """
        moving = [each.detach().requires_grad_(True) for each in inputs]
        leaves = [leaf for problem, which in self.parts for i in which for leaf in problem.leaves(i)]
        with torch.enable_grad(), second_derivatives():
            found = torch.cat(self._losses(*moving))
            slopes = (
                torch.autograd.grad(found.sum(), [*moving, *leaves], materialize_grads=True)
                if found.requires_grad
                else [torch.zeros_like(each) for each in (*moving, *leaves)]
            )
        return found.detach(), *slopes

    def _losses(self, images: Tensor, logits: Tensor | None = None) -> list[Tensor]:
        """Each problem's losses (A,), of its part of the images and logits."""
        counts = self.counts
        soft = [None] * len(counts) if logits is None else logits.split(counts)
        each = [
            (problem, list(which), *own)
            for (problem, which), *own in zip(self.parts, images.split(counts), soft, strict=True)
        ]
        if len(each) == 1:
            problem, which, *own = each[0]
            return [problem.losses(*own, which)]
        probabilities = torch.cat([problem.probabilities(*own) for problem, _, *own in each])
        # Where they join, a pass depends on neither the problem nor on which candidates these are.
        handles = each[0][0].local.handles(images, probabilities, list(range(len(images))))
        split = {name: handle.split(counts) for name, handle in handles.items()}
        return [
            problem.losses_of({name: own[i] for name, own in split.items()}, *parts, which)
            for i, (problem, which, *parts) in enumerate(each)
        ]


class Recorder:
    """Evaluates candidates for a stepper and keeps each one's first scores, those of the point before the step.

    At most `packing` candidates are evaluated together. `images` counts the images of all evaluations.
    """

    def __init__(self, problem: Problem, candidates: Candidates, prior_factor: float, packing: int) -> None:
        self.first: list[Scores] = []
        self.images = 0
        self._problem, self._candidates, self._prior_factor = problem, candidates, prior_factor
        self._packing, self._seen = packing, set[int]()
        self._restarts = candidates.finite() if problem.compares_restarts else None

    def __call__(self, which: list[int]) -> Search[Tensor]:
        """See `attack_core.matching.loop.optimizers.Evaluate`."""
        self.images += len(which) * self._problem.images
        totals = []
        for pack in [which[i : i + self._packing] for i in range(0, len(which), self._packing)]:
            scores = yield from self._together(pack)
            totals.append(scores.total)
            if self._seen.isdisjoint(pack):
                self.first.append(scores)
                self._seen.update(pack)
        return torch.cat(totals)

    def _together(self, which: list[int]) -> Search[Scores]:
        canvases, logits = self._candidates.canvases, self._candidates.logits
        with torch.enable_grad():
            images = torch.stack([canvases[i].image() for i in which])
            soft = None if logits is None else torch.stack([logits[i] for i in which])
        kept = None if soft is None else soft.detach()
        slopes = yield from asked(Evaluation(self._problem, images.detach(), kept, which))
        index = self._candidates.index(which)
        with torch.enable_grad():
            penalty = self._prior_factor * self._problem.penalty(images, index, self._restarts)
        self._hand_out(which, images, soft, penalty, slopes)
        return Scores(index, slopes.losses + penalty.detach(), slopes.losses, images.detach(), kept)

    def _hand_out(
        self, which: list[int], images: Tensor, soft: Tensor | None, penalty: Tensor, slopes: Slopes
    ) -> None:
        """Leave in each leaf's `grad` its part of the slopes, by what the candidates make of their leaves."""
        outputs, weights = [images], [slopes.images]
        if soft is not None and slopes.logits is not None:
            outputs, weights = [*outputs, soft], [*weights, slopes.logits]
        if penalty.requires_grad:
            outputs, weights = [*outputs, penalty], [*weights, torch.ones_like(penalty)]
        leaves = [leaf for i in which for leaf in self._candidates.own_leaves(i)]
        with second_derivatives():
            gradients = torch.autograd.grad(outputs, leaves, weights)
        others = [leaf for i in which for leaf in self._problem.leaves(i)]
        for leaf, gradient in zip([*leaves, *others], [*gradients, *slopes.leaves], strict=True):
            leaf.grad = gradient
