"""Conjugate gradients solve what a direct solver solves, without the matrix."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attack_core.base.conjugate_gradients import solve_definite
from fl_core.base.rng import generator


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=generator("conjugate"), dtype=torch.float64)


@pytest.mark.parametrize("preconditioned", [False, True])
def test_the_answer_is_that_of_a_direct_solver(preconditioned: bool) -> None:
    factor = drawn(12, 12)
    matrix = factor @ factor.mT + torch.diag(torch.arange(1.0, 13.0, dtype=torch.float64))
    wanted = drawn(12)
    scale = 1.0 / matrix.diagonal() if preconditioned else 1.0
    found = solve_definite(lambda x: matrix @ x, wanted, turns=40, converged=1e-12, preconditioner=scale)
    torch.testing.assert_close(found, torch.linalg.solve(matrix, wanted), rtol=1e-8, atol=1e-10)


def test_as_many_turns_as_distinct_eigenvalues_are_enough() -> None:
    sizes = torch.tensor([1.0, 5.0], dtype=torch.float64).repeat(8)
    wanted = drawn(16)
    asked = []

    def apply(x: Tensor) -> Tensor:
        asked.append(1)
        return sizes * x

    found = solve_definite(apply, wanted, turns=10, converged=1e-10)
    torch.testing.assert_close(found, wanted / sizes)
    assert len(asked) == 2


def test_a_semidefinite_map_is_solved_in_its_range_and_nothing_is_asked_for_nothing() -> None:
    direction = drawn(6)
    direction /= direction.norm()
    found = solve_definite(lambda x: direction * (direction @ x), 3.0 * direction, turns=5, converged=1e-10)
    torch.testing.assert_close(found, 3.0 * direction)
    nothing = solve_definite(lambda x: x, torch.zeros(6, dtype=torch.float64), turns=5, converged=1e-10)
    assert not bool(nothing.any())
