"""Predictions without the truth: intervals cover, what is seen is used where it tells, outcomes are kept apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from orchestrator.calibration.prediction import EXACT, Expected, Simulated, predict, quantiles
from orchestrator.calibration.seen import Seen

Random = np.random.Generator
Draw = Callable[[Random, int], tuple[np.ndarray, np.ndarray]]
"""So many clients' features (N, 4) and values (N,) in dB."""


def _seen(features: np.ndarray, outcome: str = "matching") -> Seen:
    loss, grain, rough, apart = (float(10**value) for value in features)
    return Seen(outcome=outcome, loss=loss, grain=grain, rough=rough, apart=apart)


def _simulated(
    features: np.ndarray, values: np.ndarray, *, outcome: str = "matching", each: int = 1, first: int = 0
) -> list[Simulated]:
    """Images of clients that hold `each` of them, in turn."""
    return [
        Simulated(client=first + i // each, seen=_seen(one, outcome), psnr=float(value), prior=10.0)
        for i, (one, value) in enumerate(zip(features, values, strict=True))
    ]


def _holds(expected: Expected, value: float) -> bool:
    return expected.low <= min(value, EXACT) <= expected.high


def _features(draws: Random, count: int) -> np.ndarray:
    return np.column_stack([draws.uniform(-4, -1, count), *draws.uniform(-2, -0.5, (3, count))])


def _unrelated(draws: Random, count: int) -> tuple[np.ndarray, np.ndarray]:
    return _features(draws, count), 20 + draws.gamma(2.0, 3.0, count)


def _related(draws: Random, count: int) -> tuple[np.ndarray, np.ndarray]:
    features = _features(draws, count)
    return features, 20 - 5 * features[:, 0] + 3 * features[:, 3] + draws.normal(0, 1, count)


def _two_levels(draws: Random, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Exact answers of small loss, failures of large loss."""
    features = _features(draws, count)
    return features, np.where(features[:, 0] < -2.5, 90.0, 17.0) + draws.normal(0, 2, count)


@pytest.mark.parametrize("draw", [_unrelated, _related, _two_levels])
@pytest.mark.parametrize("clients", [19, pytest.param(39, marks=pytest.mark.slow)])
def test_the_interval_covers_what_it_promises(draw: Draw, clients: int) -> None:
    draws, held, rounds = np.random.default_rng(0), 0, 300
    for _ in range(rounds):
        features, values = draw(draws, clients + 1)
        (expected,) = predict(_simulated(features[:-1], values[:-1]), [_seen(features[-1])])
        held += _holds(expected, values[-1])
    # Three standard errors of 0.9 in 300 rounds are 0.052; the exact answers of one level are all the same number.
    assert 0.848 <= held / rounds <= (1.0 if draw is _two_levels else 0.952)


@pytest.mark.slow
@pytest.mark.parametrize("shared", [0.0, 0.7, 1.0])
def test_images_of_one_client_may_be_alike(shared: float) -> None:
    draws, each, rounds, held = np.random.default_rng(1), 8, 250, 0.0
    for _ in range(rounds):
        common = np.repeat(draws.normal(0, 3, 20), each)
        own = draws.normal(0, 3, 20 * each)
        values = 20 + np.sqrt(shared) * common + np.sqrt(1 - shared) * own
        images = _simulated(_features(draws, len(values)), values, each=each)
        expected = predict(images[:-each], [one.seen for one in images[-each:]])
        held += np.mean(
            [_holds(one, image.psnr) for one, image in zip(expected, images[-each:], strict=True)]
        )
    assert 0.84 <= held / rounds <= 0.96


@pytest.mark.parametrize(("clients", "level"), [(6, 5 / 7), (18, 17 / 19), (19, 0.9), (60, 0.9)])
@pytest.mark.parametrize("each", [1, 8])
def test_an_interval_claims_no_more_than_its_clients_can_hold(clients: int, level: float, each: int) -> None:
    values = np.sort(np.repeat(np.random.default_rng(2).normal(20, 1, clients), each))
    middle, low, high, held = quantiles(values, clients, 0.9)
    assert held == pytest.approx(level)
    assert middle == pytest.approx(np.median(values))
    if clients <= 19:
        assert (low, high) == (values.min(), values.max())


def test_what_is_seen_narrows_the_prediction_where_it_tells() -> None:
    draws = np.random.default_rng(3)
    features, values = _related(draws, 40)
    asked, truth = _related(draws, 40)
    told = predict(_simulated(features, values), [_seen(one) for one in asked])
    untold = predict(_simulated(draws.permutation(features), values), [_seen(one) for one in asked])

    def error(expected: list[Expected]) -> float:
        return float(np.median([abs(one.psnr - value) for one, value in zip(expected, truth, strict=True)]))

    assert error(told) < 1.5 < error(untold)
    assert told[0].high - told[0].low < (untold[0].high - untold[0].low) / 2


def test_nothing_is_predicted_beyond_what_was_simulated() -> None:
    features, values = _related(np.random.default_rng(4), 19)
    far, edge = features[0].copy(), features[0].copy()
    far[0], edge[0] = features[:, 0].min() - 3, features[:, 0].min()
    beyond, at = predict(_simulated(features, values), [_seen(far), _seen(edge)])
    assert beyond.psnr == pytest.approx(at.psnr, abs=1.5)


def test_the_order_of_clients_and_the_unit_of_a_feature_change_nothing() -> None:
    draws = np.random.default_rng(5)
    features, values = _related(draws, 19)
    (one,) = predict(_simulated(features, values), [_seen(features[3])])
    order = draws.permutation(19)
    (other,) = predict(_simulated(features[order], values[order]), [_seen(features[3])])
    moved = features + np.array([1.0, 0.0, 0.0, 0.0])
    (scaled,) = predict(_simulated(moved, values), [_seen(moved[3])])
    for each in (other, scaled):
        assert (each.psnr, each.low, each.high) == pytest.approx((one.psnr, one.low, one.high))


def test_all_that_is_exact_is_one_value() -> None:
    features, values = _features(np.random.default_rng(6), 19), np.linspace(70, 150, 19)
    (expected,) = predict(_simulated(features, values), [_seen(features[0])])
    assert (expected.psnr, expected.low, expected.high) == (EXACT, EXACT, EXACT)


def test_answers_of_the_same_outcome_are_compared() -> None:
    draws = np.random.default_rng(7)
    exact = _simulated(_features(draws, 8), np.full(8, 90.0), outcome="analytic")
    failed = _simulated(_features(draws, 8), draws.normal(16, 1, 8), first=8)
    features = _features(draws, 1)[0]
    assert predict([*exact, *failed], [_seen(features, "analytic")])[0].low == EXACT
    expected = predict([*exact, *failed], [_seen(features)])[0]
    assert expected.high < 20
    assert expected.alike == 8


def test_an_outcome_that_was_hardly_simulated_gets_the_whole_range() -> None:
    draws = np.random.default_rng(8)
    exact = _simulated(_features(draws, 18), np.full(18, 90.0), outcome="analytic")
    failed = _simulated(_features(draws, 1), np.array([17.0]), first=18)
    asked = _seen(_features(draws, 1)[0])
    (once,) = predict([*exact, *failed], [asked])
    assert (once.psnr, once.low, once.high, once.alike) == (17.0, 10.0, EXACT, None)
    (never,) = predict(exact, [asked])
    assert (never.psnr, never.low, never.high, never.alike) == (10.0, 10.0, EXACT, None)


def test_an_answer_that_is_the_mean_image_is_as_good_as_that() -> None:
    features = _features(np.random.default_rng(9), 19)
    exact = [
        replace(each, prior=10.0 + each.client / 10)
        for each in _simulated(features, np.full(19, 90.0), outcome="analytic")
    ]
    (expected,) = predict(exact, [_seen(features[0], "prior")])
    assert (expected.psnr, expected.low, expected.high) == pytest.approx((10.9, 10.0, 11.8))


def test_a_loss_that_is_not_finite_is_predicted_from() -> None:
    features, values = _related(np.random.default_rng(10), 19)
    seen = replace(_seen(features[0]), loss=float("inf"))
    (expected,) = predict(_simulated(features, values), [seen])
    assert np.isfinite([expected.psnr, expected.low, expected.high]).all()
