"""Searches that run side by side: each asks for the loss at images of its own, and one batch answers all that wait.

A search is a generator. It yields images and is sent back what is found there; what it returns is its answer. So each
has its own steps and its own end, and finds alone what it finds among others, but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from attack_core.gradients.refusals import second_derivatives


@dataclass(frozen=True)
class Point:
    """What a problem finds at its `images` (B, C, H, W): mismatch and prior, and the gradient of each."""

    images: Tensor
    match: float
    variation: float
    data: Tensor
    prior: Tensor


Found = TypeVar("Found")
Search = Generator[Tensor, Point, Found]
"""Yields images (B, C, H, W) of one shape, is sent what is there, and returns its answer."""


def run(
    searches: Sequence[Search[Found]], answer: Callable[[Tensor, Sequence[int]], Sequence[Point]]
) -> list[Found]:
    """What each search returns.

    `answer` gets the images of all that wait, one after the other (n B, C, H, W), and which searches those are.
    """
    asked = {number: next(search) for number, search in enumerate(searches)}
    found: dict[int, Found] = {}
    while asked:
        points = answer(torch.cat(list(asked.values())), list(asked))
        waiting, asked = list(asked), {}
        for number, point in zip(waiting, points, strict=True):
            try:
                asked[number] = searches[number].send(point)
            except StopIteration as ended:
                found[number] = ended.value
    return [found[number] for number in range(len(searches))]


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
