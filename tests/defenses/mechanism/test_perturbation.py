"""Clipping, noise and compression: what they release, what they cost to send, and what they refuse."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from defenses.chain import Chain
from defenses.compression.compression import Prune, Quantise, SignOnly
from defenses.dp.local import DPUpdate
from defenses.mechanism.noise import ClipOnly, NoiseOnly
from fl_core.base.errors import InputError
from fl_core.base.rng import generator, stream
from fl_core.base.types import ClientUpdate
from fl_core.federation.rounds import FederationConfig
from fl_core.threat.facts import Clip, Noise, Quantiser, Sparsity


def update(**tensors: torch.Tensor) -> ClientUpdate:
    return ClientUpdate(client=0, tensors=tensors, examples=1, steps=1, lr=0.1, momentum=0.0)


def released(defense: Prune | Quantise | SignOnly | ClipOnly | NoiseOnly, sent: ClientUpdate) -> ClientUpdate:
    return defense.on_update(sent, stream("test", 1), FederationConfig(rounds=3))


def random_update(seed: int = 0) -> ClientUpdate:
    draws = generator("numbers", seed)
    return update(
        a=torch.randn(40, 25, generator=draws), b=0.01 * torch.randn(500, generator=draws), z=torch.zeros(3)
    )


@pytest.mark.parametrize(("distribution", "shape"), [("gaussian", "norm"), ("laplace", "laplace")])
def test_noise_has_its_distribution_and_standard_deviation(distribution: str, shape: str) -> None:
    """Kolmogorov and Smirnov's test accepts the right scale and rejects one that is 3% off."""
    sigma = 0.2
    defense = NoiseOnly(distribution=distribution, sigma=sigma)  # type: ignore[arg-type]
    noise = released(defense, update(a=torch.zeros(200_000))).tensors["a"].numpy()
    scale = sigma if distribution == "gaussian" else sigma / math.sqrt(2.0)
    assert kstest(noise, shape, args=(0.0, scale)).pvalue > 1e-3
    assert kstest(noise, shape, args=(0.0, 1.03 * scale)).pvalue < 1e-3
    assert defense.facts(FederationConfig(rounds=3)) == (Noise(distribution=distribution, sigma=sigma),)  # type: ignore[arg-type]


def test_clipping_alone_bounds_the_norm_and_says_by_how_much() -> None:
    sent = random_update()
    norm = math.sqrt(sum(float(value.square().sum()) for value in sent.tensors.values()))
    found = released(ClipOnly(max_norm=norm / 4), sent)
    assert found.clip_factor == pytest.approx(0.25)
    torch.testing.assert_close(found.tensors["a"], sent.tensors["a"] / 4)
    assert ClipOnly(max_norm=2.0).facts(FederationConfig(rounds=1)) == (Clip(max_norm=2.0),)


@given(ratio=st.floats(0.01, 0.995), seed=st.integers(0, 50), scope=st.sampled_from(["all", "tensor"]))
@settings(max_examples=60, deadline=None)
def test_pruning_keeps_the_largest_and_sends_only_them(ratio: float, seed: int, scope: str) -> None:
    sent = random_update(seed)
    found = released(Prune(ratio=ratio, scope=scope), sent)  # type: ignore[arg-type]
    groups = [["a", "b", "z"]] if scope == "all" else [["a"], ["b"]]
    survivors = 0
    for group in groups:
        before = torch.cat([sent.tensors[name].flatten() for name in group])
        after = torch.cat([found.tensors[name].flatten() for name in group])
        kept = after != 0
        assert torch.equal(after[kept], before[kept])
        assert before[~kept].abs().max() <= before[kept].abs().min()
        assert int(kept.sum()) == max(1, round((1.0 - ratio) * len(before)))
        survivors += int(kept.sum())
    assert found.bytes_up == 4 * survivors + min(math.ceil(1503 / 8), 4 * survivors)


def test_pruning_by_threshold_withholds_what_is_below_it() -> None:
    found = released(Prune(threshold=0.5), update(a=torch.tensor([0.5, -0.6, 0.4, -0.1])))
    assert found.tensors["a"].tolist() == pytest.approx([0.5, -0.6, 0.0, 0.0])
    assert Prune(threshold=0.5, scope="tensor").facts(FederationConfig(rounds=1)) == (Sparsity(scope="all"),)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_quantised_numbers_are_on_the_grid_within_a_step_and_right_on_average(bits: int) -> None:
    value = torch.tensor([-1.0, -0.37, 0.0, 0.001, 0.5, 0.999, 1.0])
    many = value.repeat(20_000, 1)
    found = released(Quantise(bits=bits), update(a=many)).tensors["a"]
    step = 2.0 / (2**bits - 1)
    levels = (found + 1.0) / step
    assert torch.allclose(levels, levels.round(), atol=1e-4)
    assert float((found - many).abs().max()) <= step + 1e-6
    error = (found.double().mean(0) - value).abs()
    # Five standard errors of a mean of 20,000 draws whose deviation is at most half a step.
    assert float(error.max()) <= 5 * step / 2 / math.sqrt(20_000) + 1e-6
    assert Quantise(bits=bits).facts(FederationConfig(rounds=1)) == (
        Quantiser(scheme="stochastic", bits=bits),
    )


def test_fewer_bits_are_fewer_bytes() -> None:
    sent = random_update()
    assert released(Quantise(bits=8), sent).bytes_up == 1503 + 3 * 4
    assert released(Quantise(bits=1), sent).bytes_up == 125 + 63 + 1 + 3 * 4
    assert released(SignOnly(), sent).bytes_up == 125 + 63 + 1 + 3 * 4


def test_signs_keep_the_mean_size_and_nothing_else() -> None:
    found = released(SignOnly(), update(a=torch.tensor([0.0, -4.0, 1.0, 1.0]))).tensors["a"]
    assert found.tolist() == pytest.approx([1.5, -1.5, 1.5, 1.5])


def test_a_diverged_update_stays_visibly_so() -> None:
    broken = update(a=torch.tensor([1.0, math.inf]))
    assert not torch.isfinite(released(Quantise(bits=4), broken).tensors["a"]).all()


def test_none_of_them_is_called_private() -> None:
    for defense in (ClipOnly(), NoiseOnly(), Prune(ratio=0.9), Quantise(), SignOnly()):
        assert Chain(defenses=(defense,)).privacy(FederationConfig(rounds=5)) is None


@pytest.mark.parametrize(
    ("chain", "reason"),
    [
        ((DPUpdate(), DPUpdate()), "would not add up"),
        ((ClipOnly(), DPUpdate()), "clips by itself"),
        ((NoiseOnly(), ClipOnly()), "clip first"),
        ((Prune(ratio=0.9), NoiseOnly()), "before compressing"),
        ((Prune(ratio=0.9), Quantise()), "no zero for what was withheld"),
    ],
)
def test_orders_that_make_no_sense_are_refused(chain: tuple, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        Chain(defenses=chain)


def test_a_sensible_chain_applies_in_order() -> None:
    chain = Chain(defenses=(ClipOnly(max_norm=1.0), NoiseOnly(sigma=0.01), Prune(ratio=0.5)))
    clients = chain.clients(seed=0, plan=FederationConfig(rounds=1))
    found, left = clients.on_update(random_update(), {}, stream("test", 2))
    assert left == {}
    kept = sum(int((value != 0).sum()) for value in found.tensors.values())
    assert kept == round(0.5 * 1503)
    assert [type(fact) for fact in chain.facts(FederationConfig(rounds=1))] == [Clip, Noise, Sparsity]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Prune(ratio=1.0), "Prune.ratio = 1.0"),
        (lambda: Prune(threshold=0.0), "Prune.threshold = 0.0"),
        (lambda: Quantise(bits=0), "Quantise.bits = 0"),
        (lambda: NoiseOnly(sigma=0.0), "NoiseOnly.sigma = 0.0"),
        (lambda: ClipOnly(max_norm=math.inf), "ClipOnly.max_norm = inf"),
    ],
)
def test_bad_strengths_are_refused_by_name(make: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()  # type: ignore[operator]
