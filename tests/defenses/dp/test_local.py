"""The DP mechanism: its noise, its bound, its budget, its refusals."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from defenses.chain import Chain
from defenses.dp.accounting import epsilon_spent, noise_multiplier
from defenses.dp.budget import DPMechanism
from defenses.dp.central import DPCentral
from defenses.dp.distributed import DPDistributed
from defenses.dp.local import DPUpdate
from defenses.dp.sgd import DPSGD
from defenses.mechanism.clipping import clip
from defenses.mechanism.draws import add_noise
from fl_core.base.errors import InputError
from fl_core.base.rng import stream
from fl_core.base.types import ClientUpdate
from fl_core.federation.client import LocalTraining
from fl_core.federation.rounds import FederationConfig
from fl_core.threat.facts import Clip, Noise


def update(*values: float) -> ClientUpdate:
    tensors = {"a": torch.tensor(values), "b": torch.zeros(50_000)}
    return ClientUpdate(client=0, tensors=tensors, examples=1, steps=1, lr=0.1, momentum=0.0)


@pytest.mark.parametrize(("epsilon", "sigma"), [(0.1, 30.750), (1.0, 3.7306), (8.0, 0.6002)])
def test_sigma_is_the_exact_gaussian_mechanisms(epsilon: float, sigma: float) -> None:
    """Balle and Wang's analytic mechanism at delta 1e-5, sensitivity 1."""
    assert DPUpdate(epsilon=epsilon, budget="release").sigma(FederationConfig(rounds=5)) == pytest.approx(
        sigma, rel=1e-4
    )


def test_sigma_scales_with_norm_adjacency_and_rounds() -> None:
    one = DPUpdate(epsilon=1.0).sigma(FederationConfig(rounds=1))
    assert DPUpdate(epsilon=1.0, max_norm=3.0).sigma(FederationConfig(rounds=1)) == pytest.approx(3 * one)
    assert DPUpdate(epsilon=1.0, adjacency="replace_one").sigma(FederationConfig(rounds=1)) == pytest.approx(
        2 * one
    )
    assert DPUpdate(epsilon=1.0).sigma(FederationConfig(rounds=16)) == pytest.approx(4 * one)


def test_total_and_release_budgets_are_two_sides_of_one_composition() -> None:
    total = DPUpdate(epsilon=8.0, budget="total").privacy(FederationConfig(rounds=5))
    assert total.epsilon == 8.0
    assert total.epsilon_release < 8.0
    back = DPUpdate(epsilon=total.epsilon_release, budget="release").privacy(FederationConfig(rounds=5))
    assert back.epsilon == pytest.approx(8.0, rel=1e-6)
    assert DPUpdate(epsilon=1.0).privacy(FederationConfig(rounds=1)).epsilon_release == 1.0
    assert (total.unit, total.adjacency, total.sampling_rate) == ("client", "zero_out", 1.0)


@given(
    values=st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=20),
    max_norm=st.floats(1e-3, 1e3),
)
@settings(max_examples=100, deadline=None)
def test_clipping_bounds_the_norm_and_keeps_the_direction(values: list[float], max_norm: float) -> None:
    tensors = {"a": torch.tensor(values), "b": torch.tensor(values[::-1])}
    sent = clip(dataclasses.replace(update(), tensors=tensors), max_norm)
    clipped, factor = sent.tensors, sent.clip_factor
    assert factor is not None and sent.not_finite == 0
    norm = math.sqrt(sum(float(value.square().sum()) for value in clipped.values()))
    assert norm <= max_norm * (1 + 1e-5)
    assert 0 < factor <= 1
    for name, value in clipped.items():
        torch.testing.assert_close(value, tensors[name] * factor)
    before = math.sqrt(sum(float(value.square().sum()) for value in tensors.values()))
    if before <= max_norm:
        assert factor == 1.0


def test_noise_has_the_stated_scale_and_no_other() -> None:
    defense = DPUpdate(epsilon=2.0, max_norm=0.5)
    released = defense.on_update(update(3.0, 4.0), stream("noise"), FederationConfig(rounds=4))
    noise = released.tensors["b"].double().numpy()
    sigma = defense.sigma(FederationConfig(rounds=4))
    assert kstest(noise / sigma, "norm").pvalue > 0.001
    for wrong in (0.95, 1.05):
        assert kstest(noise / (wrong * sigma), "norm").pvalue < 0.001
    assert released.clip_factor == pytest.approx(0.1)
    assert defense.facts(FederationConfig(rounds=4)) == (
        Clip(max_norm=0.5),
        Noise(distribution="gaussian", sigma=sigma),
    )


def test_noise_is_fixed_by_client_and_round_and_differs_between_them() -> None:
    clients = Chain(defenses=(DPUpdate(),)).clients(seed=1, plan=FederationConfig(rounds=2))

    def released(round_number: int) -> ClientUpdate:
        given = update(1.0)
        return clients.on_update(given, {}, clients.draws(given.client, round_number))[0]

    one, same, other = released(0), released(0), released(1)
    assert torch.equal(one.tensors["b"], same.tensors["b"])
    correlation = torch.corrcoef(torch.stack([one.tensors["b"], other.tensors["b"]]))[0, 1]
    assert abs(float(correlation)) < 0.03
    fresh = add_noise({"b": torch.zeros(50_000)}, "gaussian", 1.0, stream("x"))["b"]
    assert fresh.dtype == torch.float32


def test_an_empty_chain_releases_the_update_untouched() -> None:
    chain = Chain()
    given_update = update(1.0, 2.0)
    clients = chain.clients(seed=0, plan=FederationConfig(rounds=1))
    assert clients.on_update(given_update, {}, clients.draws(0, 0)) == (given_update, {})
    assert chain.facts(FederationConfig(rounds=1)) == ()
    assert chain.privacy(FederationConfig(rounds=1)) is None


@pytest.mark.parametrize("adjacency", ["zero_out", "replace_one"])
@pytest.mark.parametrize("mechanism", [DPUpdate, DPCentral, DPDistributed, DPSGD])
def test_noise_that_is_given_spends_what_its_budget_would_have_asked_for(
    mechanism: type[DPMechanism], adjacency: Any
) -> None:
    """The multiplier that a budget asks for states that budget, and makes the same noise."""
    local = LocalTraining(epochs=2, batch_size=4)
    plan = FederationConfig(clients=4, fraction=1.0, rounds=3, local=local)
    asked = mechanism(epsilon=3.0, max_norm=0.5, adjacency=adjacency)
    steps = 2 if mechanism is DPSGD else 1
    noise = asked.multiplier(rounds=3, per_round=steps)
    stated = mechanism(epsilon=None, noise_multiplier=noise, max_norm=0.5, adjacency=adjacency)
    wanted, found = asked.privacy(plan), stated.privacy(plan)
    assert wanted is not None and found is not None
    assert found.epsilon == pytest.approx(3.0, rel=1e-6)
    assert found == dataclasses.replace(wanted, epsilon=found.epsilon, epsilon_release=found.epsilon_release)
    assert found.epsilon_release == pytest.approx(wanted.epsilon_release, rel=1e-6)
    assert stated.facts(plan) == asked.facts(plan)
    longer = stated.privacy(dataclasses.replace(plan, rounds=6))
    assert longer is not None and longer.epsilon > 3.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": 0.0}, "epsilon = 0.0: must be finite and more than 0"),
        ({"epsilon": -1.0}, "epsilon = -1.0"),
        ({"delta": 0.0}, "delta = 0.0"),
        ({"delta": 1.0}, "delta = 1.0"),
        ({"max_norm": 0.0}, "max_norm = 0.0"),
        ({"epsilon": None}, "epsilon = None: must be a number, or noise_multiplier has to be one"),
        ({"noise_multiplier": 1.0}, "epsilon = 8.0: must be null beside noise_multiplier"),
        (
            {"epsilon": None, "noise_multiplier": 0.0},
            "noise_multiplier = 0.0: must be finite and more than 0",
        ),
    ],
)
@pytest.mark.parametrize("mechanism", [DPUpdate, DPSGD])
def test_bad_budgets_are_refused_by_name(
    mechanism: type[DPUpdate | DPSGD], options: dict[str, float | None], message: str
) -> None:
    with pytest.raises(InputError, match=f"{mechanism.__name__}.{message}"):
        mechanism(**options)  # type: ignore[arg-type]


def test_two_privacy_mechanisms_in_a_chain_are_refused() -> None:
    with pytest.raises(InputError, match="would not add up"):
        Chain(defenses=(DPUpdate(), DPUpdate()))


def test_sampled_releases_need_the_noise_of_their_loss_distribution() -> None:
    """A hundred releases of a tenth at epsilon 1 and delta 1e-5, both ways; without sampling it is many times that."""
    noise = noise_multiplier(1.0, 1e-5, releases=100, rate=0.1)
    assert noise == pytest.approx(3.942, rel=1e-3)
    spent = epsilon_spent(noise, 1e-5, releases=100, rate=0.1)
    assert 0.998 <= spent <= 1.0
    assert noise < 0.2 * noise_multiplier(1.0, 1e-5, releases=100)
    exact = noise_multiplier(1.0, 1e-5, releases=7)
    assert epsilon_spent(exact, 1e-5, releases=7) == pytest.approx(1.0, rel=1e-6)
