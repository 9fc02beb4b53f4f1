"""Predictions without the truth: intervals cover, the loss is used where it tells, outcomes are kept apart."""

from __future__ import annotations

import numpy as np
import pytest

from orchestrator.audit.calibration import Calibration, Simulated


def _calibration(losses: np.ndarray, values: np.ndarray, outcome: str = "matching") -> Calibration:
    return Calibration(
        simulated=tuple(
            Simulated(client=i, outcome=outcome, loss=float(loss), psnr=float(value), prior=10.0)
            for i, (loss, value) in enumerate(zip(losses, values, strict=True))
        )
    )


@pytest.mark.parametrize("related", [True, False])
def test_the_interval_covers_what_it_promises(related: bool) -> None:
    draws = np.random.default_rng(0)
    held = 0
    for _ in range(1000):
        losses = 10 ** draws.uniform(-4, -1, 20)
        sizes = 10 * np.log10(losses)
        values = 20 + draws.gamma(2.0, 3.0, 20) - (0.8 * sizes if related else 0.0)
        expected = _calibration(losses[:19], values[:19]).expected("matching", losses[19])
        held += expected.low <= values[19] <= expected.high
    assert 0.86 <= held / 1000 <= 0.96


@pytest.mark.parametrize(("count", "level"), [(6, 5 / 7), (18, 17 / 19), (19, 0.9), (60, 0.9)])
def test_an_interval_claims_no_more_than_its_values_can_hold(count: int, level: float) -> None:
    values = np.random.default_rng(2).normal(20, 1, count)
    expected = _calibration(np.full(count, 0.5), values).expected("matching", 0.5)
    assert expected.level == pytest.approx(level)
    if count < 19:
        assert (expected.low, expected.high) == (values.min(), values.max())


def test_a_loss_that_tells_narrows_the_prediction() -> None:
    losses = np.logspace(-4, -1, 19)
    values = 10 - 10 * np.log10(losses)
    calibration = _calibration(losses, values)
    for loss in (1e-3, 1e-2):
        expected = calibration.expected("matching", loss)
        assert expected.psnr == pytest.approx(10 - 10 * np.log10(loss), abs=1e-6)
        assert expected.high - expected.low < 1e-6
    beyond = calibration.expected("matching", 1e-9)
    assert beyond.psnr == pytest.approx(50.0), "nothing is predicted beyond what was simulated"


def test_a_loss_that_tells_nothing_is_left_out() -> None:
    draws = np.random.default_rng(1)
    values = draws.normal(20, 1, 19)
    calibration = _calibration(np.full(19, 0.5), values)
    assert calibration.expected("matching", 1e-6).psnr == pytest.approx(np.median(values))


def test_answers_of_the_same_outcome_are_compared() -> None:
    exact = _calibration(np.full(6, 1e-9), np.full(6, 60.0), "analytic").simulated
    other = _calibration(np.full(6, 0.1), np.full(6, 15.0)).simulated
    calibration = Calibration(simulated=(*exact, *other))
    assert calibration.expected("analytic", 1e-9).psnr == 60.0
    assert calibration.expected("matching", 0.1).psnr == 15.0
    assert calibration.mean == pytest.approx(37.5)
    assert calibration.prior == 10.0
