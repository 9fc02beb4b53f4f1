"""The bound on any attacker: tight where the best one is known, and kept by every other one."""

from __future__ import annotations

import math

import numpy as np
import pytest

from defenses.dp.information import capacity, least_mse, nats_of_one_image, spectrum
from defenses.dp.local import DPUpdate
from defenses.dp.sgd import DPSGD
from defenses.mechanism.noise import ClipOnly, NoiseOnly
from fl_core.federation.client import LocalTraining
from fl_core.federation.rounds import FederationConfig

PLAN = FederationConfig(clients=4, rounds=3, fraction=0.5, local=LocalTraining(batch_size=4))


@pytest.mark.parametrize("ratio", [0.01, 1.0, 30.0])
def test_it_is_tight_for_white_images_behind_a_linear_network(ratio: float) -> None:
    # Gaussian numbers of variance v, sent as they are under noise: the posterior mean misses v / (1 + v / sigma^2).
    numbers, variance, sigma = 64, 0.04, 0.2 / math.sqrt(ratio)
    nats = capacity(math.sqrt(numbers * variance), sigma, numbers)
    best = variance / (1.0 + variance / sigma**2)
    assert least_mse(np.full(numbers, variance), nats) == pytest.approx(best, rel=1e-9)


def test_it_is_reached_by_a_linear_network_that_sends_what_the_water_fills() -> None:
    # The network weighs each direction so that what is left of it is one level: the best there is for so much energy.
    variances, level = np.array([4.0, 2.0, 1.0, 0.1]), 0.5
    kept = variances > level
    sigma, numbers = 0.3, 4
    # Gain a on a direction of variance v leaves v / (1 + a^2 v / sigma^2).
    energies = np.where(kept, sigma**2 * (variances / np.minimum(variances, level) - 1.0), 0.0)
    posterior = variances / (1.0 + energies / sigma**2)
    exact = 0.5 * np.log(variances / posterior).sum()
    assert least_mse(variances, exact) == pytest.approx(posterior.mean(), rel=1e-9)
    assert capacity(math.sqrt(energies.sum()), sigma, numbers) >= exact, (
        "Jensen: one channel for each is the most"
    )


@pytest.mark.parametrize("seed", range(5))
def test_the_best_attacker_on_any_linear_network_stays_above_it(seed: int) -> None:
    random = np.random.default_rng(seed)
    numbers, sent, sigma = 12, 30, 0.5
    variances = random.gamma(0.5, size=numbers)
    network = random.normal(size=(sent, numbers))
    norm = math.sqrt((network**2 @ variances).sum())
    posterior = np.linalg.inv(np.diag(1.0 / variances) + network.T @ network / sigma**2)
    assert np.trace(posterior) / numbers >= least_mse(variances, capacity(norm, sigma, sent))


def test_nothing_known_leaves_the_mean_image_and_everything_known_nothing() -> None:
    variances = np.array([0.3, 0.1, 0.0])
    assert least_mse(variances, 0.0) == pytest.approx(variances.mean())
    assert least_mse(variances, 1e4) == pytest.approx(0.0, abs=1e-12)
    errors = [least_mse(variances, nats) for nats in np.linspace(0.0, 5.0, 20)]
    assert errors == sorted(errors, reverse=True)
    assert least_mse(np.zeros(3), 1.0) == 0.0


def test_the_spectrum_is_that_of_the_covariance() -> None:
    images = np.random.default_rng(0).normal(size=(7, 20)) * np.linspace(0.1, 2.0, 20)
    found = np.sort(spectrum(images))[::-1]
    assert len(found) == 20
    np.testing.assert_allclose(found.sum(), np.cov(images.T).trace())
    assert (found > 0).sum() == 6
    np.testing.assert_allclose(np.sort(spectrum(images.T)), np.linalg.eigvalsh(np.cov(images)), atol=1e-12)


def test_few_images_make_the_bound_weaker_and_not_stronger() -> None:
    random = np.random.default_rng(0)
    scale = np.linspace(2.0, 0.1, 40)
    truth = least_mse(scale**2, 3.0)
    few = [least_mse(spectrum(random.normal(size=(8, 40)) * scale), 3.0) for _ in range(200)]
    assert np.mean(few) < truth


def test_what_each_mechanism_lets_by() -> None:
    local = DPUpdate(epsilon=8.0, delta=1e-5, max_norm=1.0)
    sigma = local.sigma(PLAN)
    nats = nats_of_one_image(local.facts(PLAN), PLAN, numbers=10**6, steps=1)
    assert nats == pytest.approx(0.5 / sigma**2, rel=1e-3), "the Gaussian mechanism's own"

    single = DPSGD(epsilon=8.0, delta=1e-5, max_norm=1.0)
    each = nats_of_one_image(single.facts(PLAN), PLAN, numbers=10**6, steps=1)
    twice = nats_of_one_image(single.facts(PLAN), PLAN, numbers=10**6, steps=2)
    assert each == pytest.approx(0.5 / (4 * single.sigma(PLAN)) ** 2, rel=1e-3), "the mean over a batch of 4"
    assert twice == pytest.approx(2 * each)

    both = (*ClipOnly(max_norm=1.0).facts(PLAN), *NoiseOnly(sigma=sigma).facts(PLAN))
    assert nats_of_one_image(both, PLAN, numbers=10**6, steps=1) == nats


@pytest.mark.parametrize(
    "facts",
    [
        (),
        NoiseOnly(sigma=0.1).facts(PLAN),
        ClipOnly(max_norm=1.0).facts(PLAN),
        (*ClipOnly(max_norm=1.0).facts(PLAN), *NoiseOnly(sigma=0.1, distribution="laplace").facts(PLAN)),
    ],
)
def test_without_a_bounded_norm_and_gaussian_noise_there_is_no_bound(facts: tuple[object, ...]) -> None:
    assert nats_of_one_image(facts, PLAN, numbers=10, steps=1) is None  # type: ignore[arg-type]
