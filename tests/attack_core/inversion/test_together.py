"""Searches side by side: each finds what it finds alone, has its own end, and gives up where nothing is to be had."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from attack_core.inversion.continuation import Continuation
from attack_core.inversion.descent.limits import CONTINUATION_LIMITS, ContinuationLimits
from attack_core.inversion.descent.windows import WindowPreconditioner
from attack_core.inversion.together import Descent, Point, run
from fl_core.base.rng import generator

SIZE = 6
PIXELS = 3 * SIZE * SIZE
COUNT = 16
DESCENT = Continuation(evaluations=60)


def problems(count: int) -> tuple[Tensor, Tensor]:
    """Linear equations, 3 for each pixel, and images (count, 3, S, S) that solve them."""
    matrix = torch.randn((3 * PIXELS, PIXELS), generator=generator("matrix"))
    truth = torch.rand((count, 3, SIZE, SIZE), generator=generator("truth")) * 2 - 1
    return matrix, truth


def found(
    truth: Tensor, matrix: Tensor, numbers: Sequence[int], limits: ContinuationLimits = CONTINUATION_LIMITS
) -> tuple[Tensor, list[list[int]]]:
    """The answers of these problems, run together, and which problems were evaluated each time."""
    asked: list[list[int]] = []

    def seen(images: Tensor) -> Tensor:
        return images.flatten(1) @ matrix.mT

    targets = seen(truth)

    def mismatch(images: Tensor, which: Sequence[int]) -> Tensor:
        asked.append([numbers[each] for each in which])
        target = targets[asked[-1]]
        return (seen(images) - target).square().sum(1) / target.square().sum(1)

    def measure(number: int) -> WindowPreconditioner:
        start = torch.zeros_like(truth[:1])
        return WindowPreconditioner.measured(
            seen, start, DESCENT.evaluations, generator=generator("probes", number)
        )

    images = DESCENT.minimise_each(
        mismatch,
        torch.zeros_like(truth[numbers]),
        measures=[lambda _, __, number=number: measure(number) for number in numbers],
        stiffness=1.0,
        errors=[1e-2 if number % 3 == 0 else 0.0 for number in numbers],
        report=lambda _: None,
        limits=limits,
    )
    return images, asked


def test_one_image_among_sixteen_is_what_it_is_alone() -> None:
    matrix, truth = problems(COUNT)
    together, asked = found(truth, matrix, range(COUNT))
    for number in range(COUNT):
        (alone,), _ = found(truth, matrix, [number])
        torch.testing.assert_close(together[number], alone, atol=1e-3, rtol=0.0)
    assert asked[0] == list(range(COUNT))
    assert len(asked[-1]) < COUNT, "searches that have ended are evaluated no more"


def test_images_come_in_batches_that_memory_allows() -> None:
    matrix, truth = problems(5)
    whole, _ = found(truth, matrix, range(5))
    pairs = 4 * 4 * DESCENT.evaluations * PIXELS
    for limits in (ContinuationLimits(together=2), ContinuationLimits(pair_bytes=2.5 * pairs)):
        parts, asked = found(truth, matrix, range(5), limits)
        assert max(map(len, asked)) == 2
        torch.testing.assert_close(parts, whole, atol=1e-3, rtol=0.0)
    _, asked = found(truth, matrix, range(5), ContinuationLimits(pair_bytes=1.0))
    assert max(map(len, asked)) == 1


@pytest.mark.parametrize(("size", "gives_up"), [(30.0, True), (1.5, False)])
def test_a_search_gives_up_where_no_image_explains_more_than_nothing_does(
    size: float, gives_up: bool
) -> None:
    """Features in [-1, 1] are to be `size`: what is left over their square is near 1, above it or below."""
    matrix, truth = problems(1)
    seen: list[float] = []

    def mismatch(images: Tensor) -> Tensor:
        features = (images.flatten(1) @ matrix.mT).tanh()
        return (features - size * torch.ones(len(matrix))).square().mean() / (1.0 if gives_up else size**2)

    Continuation(evaluations=240).minimise(mismatch, torch.zeros_like(truth), report=seen.append)
    assert (len(seen) < 120) == gives_up


def test_answers_go_to_those_that_asked() -> None:
    """Each search asks for its number so many times, and answers with the sum of what it was sent."""

    def counting(number: int) -> Descent[Tensor]:
        total = torch.zeros(1)
        for _ in range(number + 1):
            point = yield torch.full((1,), float(number))
            total += point.match
        return total

    def answer(images: Tensor, who: Sequence[int]) -> list[Point]:
        assert images.tolist() == [float(number) for number in who]
        return [Point(images[i : i + 1], 10.0 * number, 0.0, images, images) for i, number in enumerate(who)]

    assert [float(total) for total in run([counting(number) for number in range(4)], answer)] == [
        0.0,
        20.0,
        60.0,
        120.0,
    ]
