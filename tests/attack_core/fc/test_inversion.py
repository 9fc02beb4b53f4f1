"""One image's layer input from its gradients: exact without noise, and with it as wrong as foretold."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from attack_core.base.reading import Estimate
from attack_core.fc.inversion import estimate_error, input_estimate
from attack_core.fc.spear import Inseparable
from fl_core.base.rng import generator

ESTIMATES: tuple[Estimate, ...] = get_args(Estimate)
OUTPUTS, INPUTS = 40, 60


def outer_product() -> tuple[Tensor, Tensor, Tensor]:
    """Weight and bias gradient of one image, and its layer input."""
    bias = torch.randn(OUTPUTS, generator=generator("errors"))
    inputs = torch.rand(INPUTS, generator=generator("inputs"))
    return torch.outer(bias, inputs), bias, inputs


def noisy(sigma: float, draws: int) -> list[tuple[Tensor, Tensor]]:
    weight, bias, _ = outer_product()
    random = generator("noise")
    return [
        (
            weight + sigma * torch.randn(weight.shape, generator=random),
            bias + sigma * torch.randn(bias.shape, generator=random),
        )
        for _ in range(draws)
    ]


def squared_error(found: Tensor, true: Tensor) -> float:
    return float((found - true).square().sum() / true.square().sum())


@pytest.mark.parametrize("estimate", ESTIMATES)
def test_without_noise_every_estimate_is_the_input(estimate: Estimate) -> None:
    weight, bias, inputs = outer_product()
    torch.testing.assert_close(input_estimate(weight, bias, estimate), inputs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(input_estimate(-weight, -bias, estimate), inputs, rtol=1e-5, atol=1e-6)
    bias[3:] = 0.0
    only = torch.outer(bias, inputs)
    torch.testing.assert_close(input_estimate(only, bias, estimate), inputs, rtol=1e-5, atol=1e-6)


def test_estimates_by_hand_on_gradients_that_are_no_outer_product() -> None:
    weight, bias = torch.tensor([[2.0, 4.0], [9.0, 3.0]]), torch.tensor([1.0, -3.0])
    assert input_estimate(weight, bias, "ratio").tolist() == pytest.approx([-3.0, -1.0])
    assert input_estimate(weight, bias, "weighted").tolist() == pytest.approx([-2.5, -0.5])
    both = torch.cat([weight, bias[:, None]], dim=1)
    left, _, _ = torch.linalg.svd(both)
    *expected, scale = (left[:, 0] @ both).tolist()
    found = input_estimate(weight, bias, "rank_one").tolist()
    assert found == pytest.approx([value / scale for value in expected], rel=1e-5)


def test_under_noise_the_leading_pair_beats_all_rows_and_all_rows_beat_one() -> None:
    _, _, inputs = outer_product()
    draws = noisy(0.5, 50)
    ratio, weighted, rank_one = (
        sum(squared_error(input_estimate(weight, bias, estimate), inputs) for weight, bias in draws)
        for estimate in ESTIMATES
    )
    assert weighted < 0.3 * ratio
    assert rank_one < 0.7 * weighted


@pytest.mark.parametrize("sigma", [0.01, 0.1, 0.3, 0.6])
def test_the_foretold_error_is_the_measured_one(sigma: float) -> None:
    _, bias, inputs = outer_product()
    draws = noisy(sigma, 400)
    measured = sum(squared_error(input_estimate(*draw, "rank_one"), inputs) for draw in draws) / len(draws)
    foretold = sum(estimate_error(*draw, sigma) for draw in draws) / len(draws)
    assert foretold == pytest.approx(measured, rel=0.15)
    # Each of its two parts is too large a share of it to be left out.
    rescaling = sigma**2 / float(bias.square().sum())
    assert foretold - rescaling != pytest.approx(measured, rel=0.15)
    assert rescaling != pytest.approx(measured, rel=0.15)


def test_the_foretold_error_grows_with_the_noise_and_is_infinite_where_noise_is_all() -> None:
    weight, bias, _ = outer_product()
    errors = [estimate_error(weight, bias, sigma) for sigma in (0.01, 0.1, 1.0, 3.0)]
    assert errors == sorted(errors)
    assert errors[0] < 1e-4
    assert estimate_error(weight, bias, 100.0) == math.inf
    random = generator("nothing")
    for _ in range(5):
        noise = torch.randn((OUTPUTS, INPUTS + 1), generator=random)
        assert estimate_error(0.7 * noise[:, :-1], 0.7 * noise[:, -1], 0.7) == math.inf


@pytest.mark.parametrize("estimate", ESTIMATES)
def test_a_dead_layer_is_refused(estimate: Estimate) -> None:
    weight, bias, _ = outer_product()
    with pytest.raises(Inseparable, match="bias gradient is zero: no unit of the layer reacts"):
        input_estimate(torch.zeros_like(weight), torch.zeros_like(bias), estimate)
