"""Least squares by steps: the solution, and the singular values on the way."""

from __future__ import annotations

import pytest
import torch

from attack_core.base.least_squares import solve_least_squares


def matrix(values: list[float]) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    count = len(values)
    left = torch.linalg.qr(torch.randn(2 * count, count, generator=draw, dtype=torch.float64))[0]
    right = torch.linalg.qr(torch.randn(count, count, generator=draw, dtype=torch.float64))[0]
    return left @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ right


def test_it_solves_and_meets_the_extreme_singular_values() -> None:
    values = torch.logspace(0.0, -2.0, 20).tolist()
    known, truth = matrix(values), torch.linspace(-1.0, 1.0, 20, dtype=torch.float64)
    solved = solve_least_squares(
        lambda x: known @ x, lambda y: known.mT @ y, known @ truth, turns=60, enough=lambda _: False
    )
    torch.testing.assert_close(solved.found, truth, atol=1e-6, rtol=0.0)
    assert solved.least == pytest.approx(values[-1], rel=1e-3)
    assert solved.largest == pytest.approx(values[0], rel=1e-3)


def test_it_ends_where_it_is_told_to() -> None:
    known, truth = matrix([1.0, 0.5, 0.1]), torch.ones(3, dtype=torch.float64)
    solved = solve_least_squares(
        lambda x: known @ x, lambda y: known.mT @ y, known @ truth, turns=9, enough=lambda x: bool(x.any())
    )
    assert solved.steps == 1


def test_nothing_to_explain_takes_no_step() -> None:
    solved = solve_least_squares(lambda x: x, lambda y: y, torch.zeros(3), turns=9, enough=lambda _: False)
    assert (solved.steps, solved.least, solved.largest) == (0, 0.0, 0.0)
