"""An attack on many releases never finds more than a mechanism claims, and finds a mechanism that claims too much."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.stats import norm

from defenses.audit import Scores, epsilon_at_least, most_likely
from defenses.budget import Budgeted
from defenses.dp import DPUpdate
from defenses.dp_central import DPCentral
from defenses.dp_distributed import DPDistributed
from defenses.dp_sgd import DPSGD
from fl_core.client import LocalTraining, batch_gradient, loss_gradient, trainable
from fl_core.models import ModelConfig, build_model, initial_state
from fl_core.reduction import Change, FixedMean
from fl_core.rng import generator
from fl_core.server import FederationConfig
from fl_core.types import ClientUpdate

PLAN = FederationConfig(clients=4, fraction=1.0, rounds=1, local=LocalTraining(batch_size=2))
Release = Callable[[float, int], float]
"""A mechanism's release of a canary of this length (0: absent, -1: another one's), as a score, by its number."""


def sent(value: float) -> ClientUpdate:
    tensors = {"a": torch.tensor([value, 0.0, 0.0])}
    return ClientUpdate(client=0, tensors=tensors, examples=1, steps=1, lr=0.1, momentum=0.0)


def by_update(defense: DPUpdate) -> Release:
    def release(length: float, number: int) -> float:
        random = generator("audit", length, number)
        return float(defense.on_update(sent(length * 9.0), random, PLAN).tensors["a"][0])

    return release


def by_shares(defense: DPDistributed) -> Release:
    def release(length: float, number: int) -> float:
        values = [length * 9.0, 0.0, 0.0, 0.0]
        return sum(
            float(defense.on_update(sent(value), generator("audit", length, number, i), PLAN).tensors["a"][0])
            for i, value in enumerate(values)
        )

    return release


def by_mean(defense: DPCentral) -> Release:
    noisy = defense.on_sum(FixedMean(planned=PLAN.planned), seed=3, plan=PLAN)

    def release(length: float, number: int) -> float:
        clipped = defense.on_update(sent(length * 9.0), generator("unused"), PLAN)
        mean = {name: value / PLAN.planned for name, value in clipped.tensors.items()}
        # Its noise follows from the seed and the round: another one for each release and neighbour.
        prepared = noisy.prepare(2 * number + int(length > 0), {})
        return float(prepared.published(Change(tensors=mean, buffers={})).tensors["a"][0])

    return release


def by_gradient(defense: DPSGD) -> Release:
    config = ModelConfig(kind="lenet", image_size=16)
    model, state = build_model(config), initial_state(config, generator("model"))
    images = torch.rand(2, 3, 16, 16, generator=generator("images")) * 2 - 1
    labels = torch.tensor([0, 1])
    alone = loss_gradient(model, trainable(state), (images[:1], labels[:1]))

    def release(length: float, number: int) -> float:
        count = 2 if length > 0 else 1
        rule = defense.on_gradient(batch_gradient, generator("audit", length, number), PLAN)
        found = rule(model, state, (images[2 - count :], labels[2 - count :]))
        return sum(float((value * alone[name]).sum()) for name, value in found.items())

    return release


def scores(release: Release, length: float, count: int) -> Scores:
    return np.array([release(length, number) for number in range(count)])


@pytest.mark.parametrize("epsilon", [1.0, 4.0, 16.0])
@pytest.mark.parametrize("adjacency", ["zero_out", "replace_one"])
def test_no_attack_on_a_clients_release_finds_more_than_is_claimed(epsilon: float, adjacency: str) -> None:
    neighbour = 0.0 if adjacency == "zero_out" else -1.0
    budget = {"epsilon": epsilon, "adjacency": adjacency}
    for release in (
        by_update(DPUpdate(**budget)),  # type: ignore[arg-type]
        by_mean(DPCentral(**budget)),  # type: ignore[arg-type]
        by_shares(DPDistributed(**budget)),  # type: ignore[arg-type]
    ):
        found = epsilon_at_least(scores(release, neighbour, 1500), scores(release, 1.0, 1500), delta=1e-5)
        assert found < epsilon
        assert found > 0.1 or epsilon == 1.0, (
            "the attack tells the neighbours apart, where so few releases can"
        )


def test_no_attack_on_a_step_of_dp_sgd_finds_more_than_is_claimed() -> None:
    release = by_gradient(DPSGD(epsilon=4.0, max_norm=0.1))
    found = epsilon_at_least(scores(release, 0.0, 400), scores(release, 1.0, 400), delta=1e-5)
    assert 0.1 < found < 4.0


def weaken(monkeypatch: pytest.MonkeyPatch, times: float) -> None:
    """Make all noise so many times too small."""
    right = Budgeted.multiplier
    monkeypatch.setattr(Budgeted, "multiplier", lambda self, **counts: right(self, **counts) / times)


def test_noise_that_is_three_times_too_small_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    weaken(monkeypatch, 3.0)
    for release in (
        by_update(DPUpdate(epsilon=1.0)),
        by_mean(DPCentral(epsilon=1.0)),
        by_shares(DPDistributed(epsilon=1.0)),
    ):
        found = epsilon_at_least(scores(release, 0.0, 3000), scores(release, 1.0, 3000), delta=1e-5)
        assert found > 1.0


def test_steps_of_dp_sgd_with_a_tenth_of_the_noise_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    weaken(monkeypatch, 10.0)
    release = by_gradient(DPSGD(epsilon=1.0, max_norm=0.1))
    found = epsilon_at_least(scores(release, 0.0, 300), scores(release, 1.0, 300), delta=1e-5)
    assert found > 1.0


def test_clipping_to_a_larger_norm_than_is_claimed_is_found() -> None:
    lax = dataclasses.replace(DPUpdate(epsilon=1.0), max_norm=1.0)
    noise = lax.sigma(PLAN)
    present = scores(lambda length, number: 9.0 * length + noise * by_normal(length, number), 1.0, 500)
    absent = scores(lambda length, number: noise * by_normal(length, number), 0.0, 500)
    assert epsilon_at_least(absent, present, delta=1e-5) > 1.0


def by_normal(length: float, number: int) -> float:
    return float(torch.randn((), generator=generator("normal", length, number)))


def test_the_bound_is_near_the_truth_where_there_are_many_releases() -> None:
    """Randomised response has two answers, so a threshold attack is the best there is."""
    epsilon, count = 1.0, 200_000
    honest = math.exp(epsilon) / (1.0 + math.exp(epsilon))
    draws = np.random.default_rng(5)
    present = (draws.random(count) < honest).astype(float)
    absent = (draws.random(count) >= honest).astype(float)
    assert 0.95 < epsilon_at_least(absent, present, delta=0.0) < 1.0
    assert epsilon_at_least(present, present, delta=0.0) == 0.0


def test_the_bound_holds_as_often_as_it_says() -> None:
    """Of a Gaussian mechanism whose epsilon is known, at most one audit in ten may exceed it at 90%."""
    delta, mean = 0.05, 1.0
    epsilon = gaussian_epsilon(mean, delta)
    draws = np.random.default_rng(7)
    found = [
        epsilon_at_least(
            draws.normal(0.0, 1.0, 400),
            draws.normal(mean, 1.0, 400),
            delta=delta,
            confidence=0.9,
            thresholds=20,
        )
        for _ in range(200)
    ]
    assert sum(value > epsilon for value in found) <= 20


def gaussian_epsilon(mean: float, delta: float) -> float:
    """The epsilon of a unit Gaussian shifted by `mean` (Balle and Wang, ICML 2018), by bisection."""
    low, high = 0.0, 20.0
    for _ in range(60):
        epsilon = (low + high) / 2.0
        spent = norm.cdf(mean / 2 - epsilon / mean) - math.exp(epsilon) * norm.cdf(-mean / 2 - epsilon / mean)
        low, high = (epsilon, high) if spent > delta else (low, epsilon)
    return high


def test_rates_are_bounded_exactly() -> None:
    assert most_likely(0, 100, 0.95) == pytest.approx(1.0 - 0.05 ** (1 / 100))
    assert most_likely(100, 100, 0.95) == 1.0
    with pytest.raises(ValueError, match="at least two"):
        epsilon_at_least(np.zeros(1), np.zeros(9), delta=0.0)
