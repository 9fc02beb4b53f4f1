"""L-BFGS: its direction against the matrix that its pairs define, its line search, and known minima."""

from __future__ import annotations

from collections.abc import Callable, Generator

import pytest
import torch
from torch import Tensor

from attack_core.inversion.lbfgs import LINE_SEARCH_LIMITS, Pairs, Value, search
from fl_core.base.rng import generator


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator("lbfgs", seed))


def convex(size: int, seed: int = 9) -> Tensor:
    factor = normal(size, size, seed=seed)
    return factor @ factor.mT + torch.eye(size)


def inverse(steps: Tensor, changes: Tensor, metric: Tensor) -> Tensor:
    """BFGS's estimate of the inverse Hessian, updated pair by pair in float64 from a multiple of the metric."""
    s, y = steps.double(), changes.double()
    whole = metric.double() * (s[-1] @ y[-1]) / (y[-1] @ metric.double() @ y[-1])
    for step, change in zip(s, y, strict=True):
        rho = 1.0 / (step @ change)
        turn = torch.eye(len(step), dtype=torch.float64) - rho * torch.outer(step, change)
        whole = turn @ whole @ turn.mT + rho * torch.outer(step, step)
    return whole


@pytest.mark.parametrize("metric", [torch.eye(12), convex(12, seed=3).inverse()], ids=["plain", "metric"])
def test_the_direction_is_that_of_the_matrix_that_the_last_pairs_define(metric: Tensor) -> None:
    """Whether products are noted pair by pair or several at once, and when old pairs leave."""
    matrix, most = convex(12), 5
    steps = normal(17, 12)
    changes = steps @ matrix
    pairs = Pairs(most)
    for number, (step, change) in enumerate(zip(steps, changes, strict=True)):
        assert pairs.add(step, change, metric @ change)
        if number % 3 == 2:
            continue
        gradient = normal(12, seed=number)
        kept = slice(max(0, number + 1 - most), number + 1)
        expected = -(inverse(steps[kept], changes[kept], metric) @ gradient.double())
        found = pairs.direction(gradient, metric @ gradient).double()
        assert float((found - expected).norm()) < 1e-3 * float(expected.norm())
    assert len(pairs) == most


def test_a_pair_along_which_the_loss_is_not_convex_is_not_kept() -> None:
    pairs = Pairs(3)
    for change in (-torch.ones(4), torch.full((4,), float("nan"))):
        assert not pairs.add(torch.ones(4), change, change)
    assert len(pairs) == 0
    assert torch.equal(pairs.direction(torch.ones(4), torch.arange(4.0)), -torch.arange(4.0))


def searched(
    loss: Callable[[Tensor], Value[None]], point: Tensor, at: Value[None], direction: Tensor, first: float
) -> tuple[float, Value[None], int]:
    """A search whose losses are told as soon as it asks for them."""

    def evaluate(where: Tensor) -> Generator[Tensor, Value[None], Value[None]]:
        found = yield where
        return found

    running = search(evaluate, point, at, direction, first)
    asked = next(running)
    while True:
        try:
            asked = running.send(loss(asked))
        except StopIteration as ended:
            answer: tuple[float, Value[None], int] = ended.value
            return answer


def valley(point: Tensor) -> Value[None]:
    """Rosenbrock's function of two unknowns, least at (1, 1)."""
    leaf = point.detach().clone().requires_grad_(True)
    loss = (1 - leaf[0]).square() + 100 * (leaf[1] - leaf[0].square()).square()
    (gradient,) = torch.autograd.grad(loss, leaf)
    return Value(float(loss.detach()), gradient, None)


def test_an_accepted_step_satisfies_the_strong_wolfe_conditions() -> None:
    point = torch.tensor([-1.2, 1.0])
    at = valley(point)
    for first in (1e-6, 1e-3, 1.0, 50.0):
        step, after, count = searched(valley, point, at, -at.gradient, first)
        slope = -float(at.gradient @ at.gradient)
        assert 1 <= count <= LINE_SEARCH_LIMITS.trials
        assert after.loss <= at.loss + LINE_SEARCH_LIMITS.decrease * step * slope
        assert abs(float(after.gradient @ -at.gradient)) <= -LINE_SEARCH_LIMITS.curvature * slope


def test_a_loss_that_is_not_finite_ends_no_search() -> None:
    """Beyond 1 there is nothing: the step stays below."""

    def walled(point: Tensor) -> Value[None]:
        if float(point[0]) > 1.0:
            return Value(float("inf"), torch.full_like(point, float("nan")), None)
        return Value(float((point[0] - 0.9) ** 2), 2 * (point - 0.9), None)

    at = walled(torch.zeros(1))
    step, after, _ = searched(walled, torch.zeros(1), at, -at.gradient, 10.0)
    assert 0.0 < step * 1.8 <= 1.0
    assert after.loss < at.loss


def test_where_nothing_descends_the_step_is_none() -> None:
    point = torch.tensor([-1.2, 1.0])
    at = valley(point)
    step, after, count = searched(valley, point, at, at.gradient, 1.0)
    assert (step, after) == (0.0, at)
    assert count == LINE_SEARCH_LIMITS.trials


def test_a_narrow_valley_is_followed_to_its_end() -> None:
    pairs, point = Pairs(10), torch.tensor([-1.2, 1.0])
    value = valley(point)
    for _ in range(60):
        direction = pairs.direction(value.gradient, value.gradient)
        step, after, _ = searched(valley, point, value, direction, 1.0 if len(pairs) else 1e-3)
        if not step:
            break
        change = after.gradient - value.gradient
        pairs.add(step * direction, change, change)
        point, value = point + step * direction, after
    torch.testing.assert_close(point, torch.ones(2), atol=1e-3, rtol=0.0)
