"""What releases tell is never more than a mechanism claims, and is more where it has too little noise."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from defenses.chain import Chain
from defenses.dp.accounting import epsilon_spent
from defenses.dp.audit import Audit, Release, lower_bound
from defenses.dp.budget import DPMechanism
from defenses.dp.central import DPCentral
from defenses.dp.distributed import DPDistributed
from defenses.dp.local import DPUpdate
from defenses.dp.sgd import DPSGD
from defenses.masking.masking import Masking
from fl_core.base.errors import InputError
from fl_core.base.rng import generator, stream
from fl_core.base.types import ClientUpdate, ModelState, Tensors
from fl_core.data.dataset import ImageDataset
from fl_core.federation.client import LocalTraining, batch_gradient, trainable
from fl_core.federation.rounds import FederationConfig
from tests.support.federations import make_federation

DELTA = 0.01
"""Large, so that the claims are close to what thousands of releases can show."""
PLAN = FederationConfig(clients=4, fraction=1.0, rounds=1, local=LocalTraining(batch_size=3))
CANARY = {"a": torch.tensor([3.0, 0.0, 4.0])}
"""Of norm 5, beyond every bound here."""


class TooQuiet(DPMechanism):
    """A mechanism with a third of the noise that it claims."""

    def sigma(self, plan: FederationConfig) -> float:
        return super().sigma(plan) / 3.0  # type: ignore[misc, no-any-return]


@dataclass(frozen=True, kw_only=True)
class QuietUpdate(TooQuiet, DPUpdate):
    pass


@dataclass(frozen=True, kw_only=True)
class QuietCentral(TooQuiet, DPCentral):
    pass


@dataclass(frozen=True, kw_only=True)
class QuietSGD(TooQuiet, DPSGD):
    pass


@dataclass(frozen=True, kw_only=True)
class QuietShares(DPDistributed):
    def share(self, plan: FederationConfig) -> float:
        return super().share(plan) / 3.0


def update(client: int, tensors: Tensors) -> ClientUpdate:
    return ClientUpdate(client=client, tensors=tensors, examples=1, steps=1, lr=0.1, momentum=0.0)


def canary(present: bool) -> Tensors:
    return CANARY if present else {"a": torch.zeros(3)}


def of_updates(defense: DPMechanism, plan: FederationConfig) -> tuple[Release, Tensors]:
    """The sum of what one client sends over all rounds."""

    def release(present: bool, run: int) -> Tensors:
        clients = Chain(defenses=(defense,)).clients(seed=run, plan=plan)  # type: ignore[arg-type]
        sent = [
            clients.on_update(update(0, canary(present)), {}, clients.draws(0, number))[0].tensors["a"]
            for number in range(plan.rounds)
        ]
        return {"a": sum(sent[1:], sent[0])}

    return release, CANARY


def of_means(defense: DPMechanism, plan: FederationConfig) -> tuple[Release, Tensors]:
    """The mean that becomes public, of the canary's client and another."""
    chain = Chain(defenses=(defense,))  # type: ignore[arg-type]
    clients = chain.clients(seed=0, plan=plan)

    def release(present: bool, run: int) -> Tensors:
        reduction = chain.reduction(seed=run, plan=plan).prepare(0, {})
        partial = reduction.start(0, ())
        for each in (update(0, canary(present)), update(1, {"a": torch.ones(3)})):
            partial = reduction.add(partial, clients.on_update(each, {}, clients.draws(each.client, 0))[0])
        return reduction.finish(partial).tensors

    return release, CANARY


def of_sums(defense: DPMechanism, plan: FederationConfig) -> tuple[Release, Tensors]:
    """What a secure sum opens, up to its rounding: every share of the noise but that of the one that may be missing."""
    chain = Chain(defenses=(replace(defense, missing=1), Masking()))  # type: ignore[arg-type, call-arg]

    def release(present: bool, run: int) -> Tensors:
        clients = chain.clients(seed=run, plan=plan)
        sent = [canary(present), *[{"a": torch.ones(3)}] * (plan.per_round - 2)]
        parts = [
            clients.on_update(update(client, tensors), {}, clients.draws(client, 0))[0].tensors["a"]
            for client, tensors in enumerate(sent)
        ]
        return {"a": torch.stack(parts).sum(0)}

    return release, CANARY


def of_steps(defense: DPMechanism, plan: FederationConfig) -> tuple[Release, Tensors]:
    """One local step's gradient, of a batch with the canary image and of the batch without it."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    draws = generator("tiny")
    state = trainable(ModelState(parameters={"1.weight": torch.zeros(2, 12), "1.bias": torch.zeros(2)}))
    images = torch.rand(3, 3, 2, 2, generator=draws) * 2 - 1
    labels = torch.tensor([0, 1, 0])

    def release(present: bool, run: int) -> Tensors:
        rule = defense.on_gradient(batch_gradient, stream("step", run), plan)
        first = 0 if present else 1
        return rule(model, state, (images[first:], labels[first:]))

    return release, batch_gradient(model, state, (images[:1], labels[:1]))


CASES: dict[str, tuple[Any, Any, Any, int]] = {
    "dp_update": (DPUpdate, QuietUpdate, of_updates, 1500),
    "dp_central": (DPCentral, QuietCentral, of_means, 1500),
    "dp_distributed": (DPDistributed, QuietShares, of_sums, 1500),
    "dp_sgd": (DPSGD, QuietSGD, of_steps, 400),
}


def audited(kind: str, epsilon: float, *, quiet: bool, rounds: int = 1) -> float:
    honest, broken, releases, runs = CASES[kind]
    defense = (broken if quiet else honest)(epsilon=epsilon, delta=DELTA, max_norm=0.1)
    release, direction = releases(defense, replace(PLAN, rounds=rounds))
    return Audit(runs=runs)(release, direction, delta=DELTA)


@pytest.mark.parametrize("epsilon", [1.0, pytest.param(4.0, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", list(CASES))
def test_no_release_tells_more_than_is_claimed(kind: str, epsilon: float) -> None:
    found = audited(kind, epsilon, quiet=False)
    assert found <= epsilon
    if epsilon >= 4.0:
        assert found > 0.15 * epsilon  # The attack is no straw man.


@pytest.mark.parametrize("kind", list(CASES))
def test_a_third_of_the_noise_is_found_out(kind: str) -> None:
    assert audited(kind, 1.0, quiet=True) > 1.0


@pytest.mark.slow
def test_rounds_together_tell_no_more_than_the_total() -> None:
    assert 0.4 < audited("dp_update", 2.0, quiet=False, rounds=2) <= 2.0
    assert audited("dp_update", 2.0, quiet=True, rounds=2) > 2.0


def test_sampled_clients_are_hidden_as_well_as_claimed_and_no_better_without(faces: ImageDataset) -> None:
    """Real Poisson samples, of which the public sees the noisy mean alone.

    With the noise that sampling needs the claim holds; if the canary always took part, the same noise would break it.
    """
    plan = FederationConfig(clients=6, fraction=0.2, rounds=1, participation="poisson")
    federation = make_federation(faces, config=plan)
    defense = DPCentral(epsilon=1.0, delta=DELTA, max_norm=0.1)
    chain = Chain(defenses=(defense,))
    assert defense.privacy(plan).sampling_rate == 0.2

    def released(present: bool, run: int, *, always: bool) -> Tensors:
        reduction = chain.reduction(seed=run, plan=plan).prepare(0, {})
        clients = chain.clients(seed=0, plan=plan)
        partial = reduction.add(reduction.start(0, ()), update(-1, {"a": torch.zeros(3)}))
        if present and (always or 0 in federation.participants(run)):
            sent, _ = clients.on_update(update(0, CANARY), {}, clients.draws(0, 0))
            partial = reduction.add(partial, sent)
        return reduction.finish(partial).tensors

    audit = Audit(runs=1000)
    sampled = audit(lambda present, run: released(present, run, always=False), CANARY, delta=DELTA)
    certain = audit(lambda present, run: released(present, run, always=True), CANARY, delta=DELTA)
    assert sampled <= 1.0 < certain


def test_the_bound_is_right_about_known_gaussians_and_lies_below_them() -> None:
    """At unit noise and distance 2: within the exact epsilon, near it with many scores, 0 where nothing differs."""
    draws = np.random.default_rng(3)
    within, without = draws.normal(2.0, size=200_000), draws.normal(size=200_000)
    exact = epsilon_spent(0.5, DELTA)
    found = lower_bound(within, without, delta=DELTA, confidence=0.95)
    assert 0.75 * exact < found <= exact
    assert found == pytest.approx(
        lower_bound(-without, -within, delta=DELTA, confidence=0.95), rel=0.1
    )  # For the canary or against it.
    assert lower_bound(draws.normal(size=2000), draws.normal(size=2000), delta=0.0, confidence=0.95) < 0.2
    few = lower_bound(within[:200], without[:200], delta=DELTA, confidence=0.95)
    assert few < found


def test_the_bound_is_seldom_too_high() -> None:
    """In 200 audits of releases that differ by nothing at most 5% may say that they do, and a few more by chance."""
    draws = np.random.default_rng(5)
    wrong = sum(
        lower_bound(draws.normal(size=200), draws.normal(size=200), delta=0.0, confidence=0.95) > 0
        for _ in range(200)
    )
    assert wrong <= 18


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runs": 1}, r"Audit\.runs = 1: must be at least 2"),
        ({"confidence": 1.0}, r"Audit\.confidence = 1\.0"),
    ],
)
def test_bad_settings_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Audit(**options)
