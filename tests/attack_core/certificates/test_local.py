"""Certificates of searched images, on maps whose singular values are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from attack_core.certificates.local import certify_locally

SIDE = 8
UNKNOWNS = 3 * SIDE * SIDE


def linear(values: Tensor) -> Tensor:
    """A map (2 n, n) of an image's n numbers with these singular values (n,)."""
    draw = torch.Generator().manual_seed(1)
    left = torch.linalg.qr(torch.randn(2 * UNKNOWNS, UNKNOWNS, generator=draw))[0]
    right = torch.linalg.qr(torch.randn(UNKNOWNS, UNKNOWNS, generator=draw))[0]
    return left @ (values[:, None] * right)


def picture() -> Tensor:
    return torch.rand((1, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(2)) * 2.0 - 1.0


def certified(known: Tensor, answer: Tensor, truth: Tensor, error: float = 0.0):
    return certify_locally(
        lambda images: images.flatten(1) @ known.mT, truth.flatten(1) @ known.mT, answer, error=error
    )


def test_an_answer_that_explains_everything_is_exact() -> None:
    truth = picture()
    found = certified(linear(torch.logspace(0.0, -1.0, UNKNOWNS)), truth, truth)
    assert found.verdict == "exact"
    assert found.rank == found.unknowns == UNKNOWNS
    assert found.condition >= 10.0 * 0.9, "it is never below the map's own"
    assert found.psnr > 100.0


@pytest.mark.parametrize("off", [1e-4, 1e-3, 1e-2])
def test_the_bound_holds_for_any_answer(off: float) -> None:
    truth = picture()
    answer = truth + off * torch.randn(truth.shape, generator=torch.Generator().manual_seed(3))
    found = certified(linear(torch.logspace(0.0, -1.0, UNKNOWNS)), answer, truth)
    reached = -10.0 * math.log10(float(((answer - truth) / 2.0).square().mean()))
    assert found.psnr <= reached
    assert found.psnr >= reached - 20.0 * math.log10(2.0 * found.condition), "it is not empty either"


def test_a_direction_that_changes_nothing_leaves_it_open() -> None:
    values = torch.logspace(0.0, -1.0, UNKNOWNS)
    values[-1] = 0.0
    truth = picture()
    found = certified(linear(values), truth, truth)
    assert found.verdict == "open"
    assert found.rank < UNKNOWNS
    assert math.isinf(found.condition)


def test_numbers_that_a_relu_hides_do_not_count() -> None:
    truth = picture()
    known = linear(torch.ones(UNKNOWNS))
    half = truth.flatten(1) @ known.mT
    hidden = half - half.median()

    def seen(images: Tensor) -> Tensor:
        return (images.flatten(1) @ known.mT - half.median()).relu()[:, : UNKNOWNS + 20]

    found = certify_locally(seen, hidden.relu()[:, : UNKNOWNS + 20], truth)
    assert found.verdict == "open"
    assert found.rank == int((hidden[:, : UNKNOWNS + 20] > 0).sum())


def test_an_error_of_what_was_read_lowers_the_bound() -> None:
    truth, known = picture(), linear(torch.ones(UNKNOWNS))
    exact, rough = certified(known, truth, truth), certified(known, truth, truth, error=0.1)
    assert exact.verdict == "exact"
    assert rough.verdict == "determined"
    assert rough.psnr < 40.0 < exact.psnr
