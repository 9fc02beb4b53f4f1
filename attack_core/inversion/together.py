"""Descents that run side by side: each asks for the loss at images of its own, and one batch answers all that wait.

A descent is a generator. It yields images and is sent back what is found there; what it returns is its answer. Asking
and waiting are those of `attack_core.base.search`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from attack_core.base.programs.program import Runner
from attack_core.base.search import Found, Question, Search, asked, side_by_side
from attack_core.gradients.refusals import second_derivatives


@dataclass(frozen=True)
class Point:
    """What a problem finds at its `images` (B, C, H, W): mismatch and prior, and the gradient of each."""

    images: Tensor
    match: float
    variation: float
    data: Tensor
    prior: Tensor


Descent = Generator[Tensor, Point, Found]
"""Yields images (B, C, H, W) of one shape, is sent what is there, and returns its answer."""
Answer = Callable[[Tensor, Sequence[int]], Sequence[Point]]
"""What is at the images of all that wait, one after the other (n B, C, H, W); and which descents those are."""


@dataclass(frozen=True, eq=False)
class _Look(Question[Point]):
    """Asks what is at the `images` of descent `number`; all descents of a run go together."""

    answer: Answer
    number: int
    images: Tensor

    @property
    def kin(self) -> Hashable:
        """See `Question.kin`."""
        return "images"

    @property
    def ground(self) -> object:
        """See `Question.ground`."""
        return self.answer

    @classmethod
    def answers(cls, questions: Sequence[Self], runner: Runner) -> Sequence[Point]:  # noqa: ARG003
        """See `Question.answers`; what is found is read by the host each time."""
        images = torch.cat([question.images for question in questions])
        return questions[0].answer(images, [question.number for question in questions])


def run(descents: Sequence[Descent[Found]], answer: Answer) -> list[Found]:
    """What each descent returns; raises what one of them, or `answer`, raises."""
    searches = [_looking(descent, number, answer) for number, descent in enumerate(descents)]
    return [ended.result() for ended in side_by_side(searches)]


def _looking(descent: Descent[Found], number: int, answer: Answer) -> Search[Found]:
    """A descent as a search."""
    try:
        images = next(descent)
        while True:
            images = descent.send((yield from asked(_Look(answer, number, images))))
    except StopIteration as ended:
        found: Found = ended.value
        return found


def look(
    mismatch: Callable[[Tensor], Tensor], prior: Callable[[Tensor], Tensor], images: Tensor, problems: int
) -> list[Point]:
    """What so many problems of equally many images find at `images` (problems B, C, H, W).

    `mismatch` gives one number for each problem, () where there is one, and `prior` one for each image.
    """
    images = images.detach().requires_grad_(True)
    data = mismatch(images).view(problems)
    variation = prior(images).view(problems, -1).sum(1)
    with second_derivatives():
        slopes = [_slope(each.sum(), images).chunk(problems) for each in (data, variation)]
    numbers = (data.tolist(), variation.tolist())
    return [Point(*parts) for parts in zip(images.detach().chunk(problems), *numbers, *slopes, strict=True)]


def _slope(loss: Tensor, images: Tensor) -> Tensor:
    """The gradient by images; 0 where the loss does not depend on them."""
    if not loss.requires_grad:
        return torch.zeros_like(images)
    (found,) = torch.autograd.grad(loss, images, materialize_grads=True)
    return found.detach()
