"""Privacy of whole clients: equal weights, central noise, shares of noise, sampling; who sees what of each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import kstest

from attack_core.signal.signal_model import deviations
from defenses.chain import AnyDefense, Chain
from defenses.compression.compression import Prune
from defenses.dp.accounting import epsilon_spent, noise_multiplier
from defenses.dp.central import DPCentral, NoisyMean
from defenses.dp.distributed import DPDistributed
from defenses.dp.local import DPUpdate
from defenses.dp.sgd import DPSGD
from defenses.he.encryption import CKKS
from defenses.masking.masking import Masking
from defenses.mechanism.clipping import bounded
from defenses.mechanism.noise import ClipOnly
from defenses.secure.selective import Selective
from fl_core.base.errors import InputError
from fl_core.base.rng import generator
from fl_core.base.types import ClientUpdate, Tensors
from fl_core.data.dataset import ImageDataset
from fl_core.data.partition import Dirichlet
from fl_core.federation.aggregation import FedAvg, FixedMean, mean_change
from fl_core.federation.client import LocalTraining
from fl_core.federation.federation import Federation
from fl_core.federation.rounds import FederationConfig
from fl_core.federation.training import run
from fl_core.models.build import initial_state
from fl_core.models.config import ModelConfig
from fl_core.threat.captures import Victim, capture
from fl_core.threat.facts import Clip, MeanNoise, Noise
from fl_core.threat.model import ThreatModel
from fl_core.threat.observation import observe
from fl_core.threat.record import RoundRecord
from orchestrator.config.parse import cell_settings
from orchestrator.driver.sweep import run_sweep
from orchestrator.runtime.progress import Silent
from tests.support.defended import federation_of
from tests.support.small import both, run_quietly, sweep

LENET = ModelConfig(kind="lenet", image_size=16)
PLAN = FederationConfig(clients=4, fraction=1.0, rounds=2)
POISSON = FederationConfig(clients=8, fraction=0.25, rounds=5, participation="poisson")


def update(client: int, value: float, *, examples: int = 1) -> ClientUpdate:
    tensors = {"a": torch.tensor([value, 0.0]), "b": torch.zeros(50_000)}
    return ClientUpdate(client=client, tensors=tensors, examples=examples, steps=1, lr=0.1, momentum=0.0)


def federation(faces: ImageDataset, config: FederationConfig, train: int = 24) -> Federation:
    return federation_of(faces, config, LENET, train)


def captured(faces: ImageDataset, defense: AnyDefense, config: FederationConfig) -> RoundRecord:
    chain = Chain(defenses=(defense,))
    return capture(
        federation(faces, config),
        initial_state(LENET, generator("model", 3)),
        signal="agg_update",
        round_number=0,
        victim=Victim(client=0),
        defense=chain.clients(seed=1, plan=config),
        facts=chain.facts(config),
        mean=chain.fixed_mean(seed=1, plan=config),
    )[0]


def norm_of(tensors: Tensors) -> float:
    return float(torch.cat([value.flatten() for value in tensors.values()]).norm())


@pytest.mark.parametrize("defense", [DPUpdate(), DPCentral()])
def test_a_promise_to_clients_weighs_them_equally_over_those_planned(defense: AnyDefense) -> None:
    """Examples do not count, and who is missing is a zero and no larger weight for the others."""
    mean = Chain(defenses=(defense,)).mean(PLAN)
    found = mean_change([update(0, 1.0, examples=9), update(1, 3.0), update(2, 2.0)], mean)
    assert found.tensors["a"].tolist() == pytest.approx([6.0 / 4, 0.0])
    assert isinstance(mean, FixedMean)
    for other in ((), (DPSGD(),), (ClipOnly(),)):
        assert type(Chain(defenses=other).mean(PLAN)) is FedAvg


def test_secure_sums_weigh_equally_too_and_divide_by_those_planned() -> None:
    chain = Chain(defenses=(DPDistributed(missing=1), Masking(dropout=0.25)))
    secure = chain.secure_sum(seed=0, plan=PLAN)
    assert secure is not None
    values = [1.0, 2.0, 3.0, 4.0]
    sent, opened = secure.open_sum(0, [update(i, v, examples=i + 1) for i, v in enumerate(values)])
    assert len(sent) == 3
    assert opened.shares == pytest.approx((0.25, 0.25, 0.25))
    expected = sum(values[each.client] for each in sent) / 4
    assert float(opened.tensors["a"][0]) == pytest.approx(expected, abs=1e-5)


def test_an_aggregate_of_uneven_clients_is_captured_as_it_is_averaged(faces: ImageDataset) -> None:
    config = replace(PLAN, partition=Dirichlet(alpha=3.0), local=LocalTraining(lr=0.05, batch_size=4))
    record = captured(faces, DPUpdate(epsilon=1e6, max_norm=0.1), config)
    assert len({each.examples for each in record.updates}) > 1
    seen = observe(record, ThreatModel()).tensors
    for name, value in seen.items():
        mean = torch.stack([each.tensors[name] for each in record.updates]).mean(dim=0)
        torch.testing.assert_close(value, mean)
    alone = observe(record, ThreatModel(colluders=3)).tensors
    for name, value in alone.items():
        torch.testing.assert_close(value, record.updates[0].tensors[name], rtol=1e-4, atol=1e-6)


def test_the_server_sees_clipped_updates_and_the_public_their_noisy_mean(faces: ImageDataset) -> None:
    defense = DPCentral(epsilon=2.0, max_norm=0.5)
    record = captured(faces, defense, PLAN)
    sigma = defense.sigma(PLAN)
    server, public = observe(record, ThreatModel()), observe(record, ThreatModel(view="public"))
    assert server.facts == (Clip(max_norm=0.5),)
    assert public.facts == (Clip(max_norm=0.5), MeanNoise(sigma=sigma))
    assert norm_of(server.tensors) <= 0.5 * (1 + 1e-5)
    noise = torch.cat([(public.tensors[n] - server.tensors[n]).flatten() for n in server.tensors])
    assert kstest(noise.double().numpy() / sigma, "norm").pvalue > 0.001
    # What an attacker expects of the numbers' errors, in units of a gradient: not divided among clients once more.
    unit = deviations(public, public.tensors)["fc.weight"] / sigma
    less = observe(record, ThreatModel(view="public", colluders=2))
    assert deviations(less, less.tensors)["fc.weight"] == pytest.approx(2 * sigma * unit, rel=1e-6)
    noise = torch.cat([(less.tensors[n] - _first_two(record, n)).flatten() for n in less.tensors])
    assert kstest(noise.double().numpy() / (2 * sigma), "norm").pvalue > 0.001
    assert observe(record, ThreatModel(view="public", knows_defense=False)).facts == ()


def _first_two(record: RoundRecord, name: str) -> torch.Tensor:
    return torch.stack([each.tensors[name] for each in record.updates[:2]]).mean(dim=0)


def test_single_signals_have_no_public_view() -> None:
    with pytest.raises(InputError, match=r"threat\.view = 'public' does not go with signal 'gradients'"):
        ThreatModel(view="public").view_of("gradients")


def test_central_noise_is_of_the_stated_scale_and_new_in_each_round() -> None:
    """It is the round's own: the same again for the same round, another in the next."""
    defense = DPCentral(epsilon=4.0, max_norm=0.2)
    reduction = Chain(defenses=(defense,)).reduction(seed=7, plan=PLAN)
    assert isinstance(reduction, NoisyMean)
    updates = [bounded(update(i, 5.0, examples=i + 1), 0.2) for i in range(4)]
    partial = reduction.start(0, ())
    for each in updates:
        partial = reduction.add(partial, each)
    first, again, second = (reduction.prepare(n, {}).finish(partial).tensors["b"] for n in (0, 0, 1))
    assert torch.equal(first, again)
    sigma = defense.sigma(PLAN)
    for drawn in (first, second):
        assert kstest(drawn.double().numpy() / sigma, "norm").pvalue > 0.001
        for wrong in (0.95, 1.05):
            assert kstest(drawn.double().numpy() / (wrong * sigma), "norm").pvalue < 0.001
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.03
    with pytest.raises(ValueError, match="prepared"):
        reduction.finish(partial)


def test_shares_of_noise_add_up_to_what_the_budget_needs_with_some_missing() -> None:
    defense = DPDistributed(epsilon=2.0, max_norm=0.5, missing=1)
    chain = Chain(defenses=(defense, Masking()))
    clients = chain.clients(seed=1, plan=PLAN)
    sent = [clients.on_update(update(i, 9.0), {}, clients.draws(i, 0))[0] for i in range(4)]
    needed = noise_multiplier(2.0, 1e-5, releases=2) * 0.5
    total = sum(each.tensors["b"] for each in sent[1:]).double().numpy()  # type: ignore[union-attr]
    assert kstest(total / needed, "norm").pvalue > 0.001
    for wrong in (0.95, 1.05):
        assert kstest(total / (wrong * needed), "norm").pvalue < 0.001
    share = needed / 3**0.5
    assert chain.facts(PLAN) == (
        Clip(max_norm=0.5),
        Noise(distribution="gaussian", sigma=pytest.approx(share)),
    )
    assert sent[0].clip_factor == pytest.approx(0.5 / 9)
    privacy = chain.privacy(PLAN)
    assert privacy is not None
    assert (privacy.epsilon, privacy.against, privacy.sampling_rate) == (2.0, "server", 1.0)


@pytest.mark.parametrize(
    ("chain", "reason"),
    [
        ((DPDistributed(),), "only a sum has it all; add 'masking', 'ckks' or 'paillier'"),
        ((DPDistributed(), CKKS(selective=Selective(fraction=0.5))), "carry a share of the noise only"),
        ((DPDistributed(), Prune(), Masking()), "prune changes it after it was clipped"),
        ((DPCentral(), Prune()), "prune changes it after it was clipped"),
        ((DPCentral(), Masking()), "take 'dp_distributed'"),
        ((DPCentral(), DPUpdate()), "would not add up"),
        ((DPSGD(), DPCentral()), "would not add up"),
        ((ClipOnly(), DPCentral()), "clips by itself"),
    ],
)
def test_chains_that_would_claim_too_much_are_refused(chain: tuple[Any, ...], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        Chain(defenses=chain)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": 0.0}, "epsilon = 0.0: must be finite and more than 0"),
        ({"delta": 1.0}, "delta = 1.0"),
        ({"delta": 0.0}, "delta = 0.0"),
        ({"max_norm": -1.0}, "max_norm = -1.0"),
    ],
)
@pytest.mark.parametrize("kind", [DPCentral, DPDistributed])
def test_bad_budgets_are_refused_by_name(kind: Any, options: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=f"{kind.__name__}.{message}"):
        kind(**options)


def test_more_missing_than_a_round_has_is_refused_and_so_is_a_random_number() -> None:
    with pytest.raises(InputError, match=r"DPDistributed\.missing = -1"):
        DPDistributed(missing=-1)
    with pytest.raises(InputError, match=r"DPDistributed\.missing = 4: must be less than the 4"):
        DPDistributed(missing=4).facts(PLAN)
    with pytest.raises(InputError, match="'poisson' does not go with dp_distributed"):
        DPDistributed().facts(POISSON)


def test_sampling_amplifies_only_where_it_is_poisson_and_hidden() -> None:
    """Central noise against the public; never what the server sees, nor a fixed number of participants."""
    sampled = DPCentral(epsilon=2.0)
    privacy = sampled.privacy(POISSON)
    assert (privacy.sampling_rate, privacy.against, privacy.rounds) == (0.25, "public", 5)
    assert (privacy.unit, privacy.adjacency, privacy.epsilon) == ("client", "zero_out", 2.0)
    fixed = replace(POISSON, participation="fixed")
    assert sampled.privacy(fixed).sampling_rate == 1.0
    assert sampled.sigma(POISSON) < 0.6 * sampled.sigma(fixed)
    # Both ways: the noise that a budget needs spends it.
    multiplier = sampled.sigma(POISSON) * POISSON.planned
    assert 0.99 * 2.0 < epsilon_spent(multiplier, 1e-5, releases=5, rate=0.25) <= 2.0
    release = DPCentral(epsilon=privacy.epsilon_release, budget="release").privacy(POISSON)
    assert release.epsilon == pytest.approx(2.0, rel=0.02)
    for other in (DPCentral(adjacency="replace_one"), DPUpdate(), DPSGD()):
        assert other.privacy(POISSON).sampling_rate == 1.0
    replaced = DPCentral(epsilon=2.0, adjacency="replace_one")
    assert replaced.sigma(POISSON) == pytest.approx(2 * sampled.sigma(fixed))


def test_a_published_value_of_sampled_noise() -> None:
    """Abadi et al. (CCS 2016): q 0.01, sigma 4, 10,000 steps and delta 1e-5 have 1.26 by moments, an upper bound.

    Composed loss distributions give less. The central limit of Bu et al. (2020) has mu = q sqrt(T (e^(1/sigma^2) - 1))
    = 0.254 there, which is epsilon 0.942.
    """
    spent = epsilon_spent(4.0, 1e-5, releases=10_000, rate=0.01)
    assert spent < 1.26
    assert spent == pytest.approx(0.942, rel=0.01)


def test_poisson_samples_have_their_distribution_and_keep_the_leader(faces: ImageDataset) -> None:
    many = federation(faces, replace(POISSON, clients=12, fraction=0.25))
    counts = [len(many.participants(n)) for n in range(2_000)]
    assert sum(counts) / len(counts) == pytest.approx(3.0, abs=0.15)
    variance = sum((count - 3.0) ** 2 for count in counts) / len(counts)
    assert variance == pytest.approx(12 * 0.25 * 0.75, rel=0.15)
    joint = sum({0, 1} <= set(many.participants(n)) for n in range(2_000)) / 2_000
    assert joint == pytest.approx(1 / 16, abs=0.02)
    groups = [many.participants(1, first=5, group=g) for g in range(2)]
    assert groups[0][0] == 5
    assert not set(groups[0]) & set(groups[1])
    assert many.participants(7) == many.participants(7)


def test_a_round_of_nobody_releases_the_noise_and_nothing_else(faces: ImageDataset) -> None:
    rare = replace(POISSON, clients=2, fraction=0.01, rounds=1)
    nobody, state = federation(faces, rare), initial_state(LENET, generator("model", 3))
    assert nobody.participants(0) == []
    plain = next(run(nobody, state, rounds=1))
    assert plain.participants == ()
    assert all(torch.equal(plain.state.parameters[name], value) for name, value in state.parameters.items())
    change = nobody.chunks(0)
    assert [chunk.clients for chunk in change] == [()]


CELLS = [
    {"name": "central", "defense": [{"kind": "dp_central", "epsilon": 50.0}]},
    {
        "name": "public",
        "defense": [{"kind": "dp_central", "epsilon": 50.0}],
        "differs": {"threat.view": "public", "federation.participation": "poisson"},
    },
    {"name": "shares", "defense": [{"kind": "dp_distributed", "epsilon": 50.0}, {"kind": "masking"}]},
]


@pytest.mark.slow
def test_a_sweep_says_against_whom_each_promise_holds(faces_root: Path, tmp_path: Path) -> None:
    config = sweep(
        faces_root,
        model={"kind": "lenet", "image_size": 16},
        capture={"signal": "agg_update", "round": 1, "weights": "defended"},
        federation={"clients": 8, "fraction": 0.25, "rounds": 2, "local": {"lr": 0.05, "max_steps": 1}},
        cells=CELLS,
        victims={"tuning": 0, "test": 2},
        attackers=both(
            {"kind": "auto", "analytic": {"inversion": {"evaluations": 40}}, "fallback": {"iterations": 4}}
        ),
    )
    rows = run_quietly(config, tmp_path)
    assert set(rows["status"]) == {"ok"}
    assert set(rows["rounds"]) == {2}
    assert set(rows["dp_unit"]) == {"client"}
    said = rows.groupby("cell")[["view", "dp_against", "sampling_rate", "epsilon"]].first()
    assert said.loc["central"].tolist() == ["aggregate", "public", 1.0, 50.0]
    assert said.loc["public"].tolist() == ["public", "public", 0.25, 50.0]
    adaptive = rows[(rows["attacker"] == "adaptive") & (rows["cell"] != "central")]
    assert (
        adaptive["psnr"] >= adaptive["psnr_mean_image"] - 0.01
    ).all()  # Noise this strong leaves the prior.
    noise = rows.groupby("cell")["noise_to_signal_db"].first()
    assert noise.notna().to_dict() == {"central": False, "public": True, "shares": True}
    assert said.loc["shares"].tolist() == ["aggregate", "server", 1.0, 50.0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threat": {"colluders": 1}}, r"DPDistributed\.missing = 0: must be at least 1: 0 of a round's"),
        (
            {"cells__0__defense__1__dropout": 0.25},
            "must be at least 1: 1 of a round's participants add no noise",
        ),
        ({"cells__0__defense__1": {"kind": "ckks"}, "threat": {"view": "key_holder"}}, "breaks the promise"),
        ({"federation__participation": "poisson"}, "'poisson' does not go with masking"),
    ],
)
def test_settings_that_break_the_shared_promise_are_refused(
    faces_root: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    defense = [{"kind": "dp_distributed"}, {"kind": "masking"}]
    config = sweep(
        faces_root,
        **{"cells": [{"name": "shares", "defense": defense}], "federation__fraction": 1.0} | changes,
    )
    assert cell_settings(config, config.cells[0])
    with pytest.raises(InputError, match=message):
        run_sweep(config, tmp_path, address="serial", reporter=Silent())
