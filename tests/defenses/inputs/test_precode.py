"""PRECODE: the bottleneck and its draw, and the attackers whom the draw does not stop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scipy.stats import kstest
from torch.distributions import Normal, kl_divergence
from torch.nn import functional

from attack_core.attacks.analytic import Analytic
from attack_core.attacks.auto import Auto
from attack_core.fc.head import observed_head
from attack_core.gradients.targets import gradient_estimate
from attack_core.inversion.continuation import Continuation
from attack_core.local_sgd.vib_noise import solved_noise
from attack_core.matching.loop.problem import problem_of
from attack_core.matching.matching import Matching
from attack_core.matching.presets import soft_matching
from defenses.chain import AnyDefense, Chain
from defenses.compression.compression import Prune
from defenses.compression.soteria import Soteria
from defenses.dp.sgd import DPSGD
from defenses.inputs.precode import Precode
from defenses.mechanism.noise import ClipOnly, NoiseOnly
from fl_core.base.errors import InputError
from fl_core.base.rng import generator, normal, stream
from fl_core.base.types import Signal
from fl_core.data.dataset import ImageDataset
from fl_core.federation.client import batch_gradient, trainable
from fl_core.federation.rounds import FederationConfig
from fl_core.models.bottleneck import (
    Bottleneck,
    code_of,
    divergence,
    draw_code_noise,
    find_bottleneck,
    with_noise,
)
from fl_core.models.build import build_model, initial_state
from fl_core.models.config import ModelConfig, ModelName
from fl_core.models.forward import predict
from fl_core.threat.facts import RandomCode
from tests.support.defended import attacked, of_mean, quality, seen
from tests.support.small import both, run_quietly, sweep

PLAN = FederationConfig(rounds=1)
SHORT = replace(soft_matching(), iterations=60)
FEATURES = Analytic(inversion=Continuation(evaluations=90), refine="never", fallback=SHORT)
AUTO = Auto(analytic=FEATURES, fallback=SHORT)
SMALL = Precode(size=32)


def test_the_divergence_is_that_of_two_normal_distributions() -> None:
    statistics = torch.randn(5, 8, generator=generator("statistics"))
    mean, deviation = code_of(statistics)
    assert (mean.shape, deviation.shape) == ((5, 4), (5, 4))
    expected = kl_divergence(Normal(mean, deviation), Normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(divergence(statistics), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["cnn64", "lenet", "mlp", "resnet18"])
def test_the_rest_of_the_network_starts_as_without_it(kind: ModelName) -> None:
    plain = ModelConfig(kind=kind, image_size=8)
    narrow = Precode(size=16).on_model(plain)
    before, after = (initial_state(each, generator("model", 0)) for each in (plain, narrow))
    own = {name for name in after.parameters if "bottleneck" in name}
    assert len(own) == 4
    for name, value in before.parameters.items():
        moved = name if name in after.parameters else name.replace("fc.", "fc.last.")
        assert torch.equal(after.parameters[moved], value)
    assert after.buffers.keys() == before.buffers.keys()
    assert list(after.parameters) == [name for name, _ in build_model(narrow).named_parameters()]
    assert predict(build_model(narrow).eval(), after, torch.zeros(3, 3, 8, 8)).shape == (3, 2)


def test_the_code_is_drawn_from_its_distribution_and_predictions_take_its_mean() -> None:
    """Normal at the encoder's mean and deviation; a deviation that is 10% off fails the same test."""
    draws = draw_code_noise(Bottleneck(4, 16), 400, stream("noise"), torch.zeros(1)).flatten()
    assert kstest(draws.numpy(), "norm").pvalue > 0.01
    assert kstest(1.1 * draws.numpy(), "norm").pvalue < 0.01
    config = Precode(size=8).on_model(ModelConfig(kind="mlp", image_size=8))
    model, state = build_model(config), initial_state(config, generator("model", 0))
    images = torch.rand(2, 3, 8, 8, generator=generator("images"))
    found = find_bottleneck(model)
    assert found is not None
    mean = predict(model, state, images)
    assert torch.equal(mean, predict(model, with_noise(state, found[0], torch.zeros(2, 8)), images))
    assert not torch.equal(mean, predict(model, with_noise(state, found[0], torch.ones(2, 8)), images))
    assert found[1].noise is None, "no draw stays behind"


def test_a_gradient_is_that_of_the_loss_with_the_divergence_and_a_fresh_draw() -> None:
    config = Precode(size=8).on_model(ModelConfig(kind="mlp", image_size=8))
    model, state = build_model(config), trainable(initial_state(config, generator("model", 0)))
    batch = (torch.rand(2, 3, 8, 8, generator=generator("images")), torch.tensor([0, 1]))
    rule = Precode(size=8, beta=0.3).on_gradient(batch_gradient, stream("defense", 0), PLAN)
    first, second = rule(model, state, batch), rule(model, state, batch)
    assert not torch.equal(first["fc1.weight"], second["fc1.weight"]), "every pass draws anew"
    again = Precode(size=8, beta=0.3).on_gradient(batch_gradient, stream("defense", 0), PLAN)
    assert torch.equal(again(model, state, batch)["fc1.weight"], first["fc1.weight"])

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, state.parameters[f"{name}.weight"], state.parameters[f"{name}.bias"])

    hidden = linear("fc2", linear("fc1", batch[0].flatten(1)).relu()).relu()
    mean, raw = linear("bottleneck.encoder", hidden).chunk(2, dim=1)
    deviation = functional.softplus(raw)
    code = mean + deviation * normal(stream("defense", 0), (2, 8))
    spread = kl_divergence(Normal(mean, deviation), Normal(0.0, 1.0)).sum(1).mean()
    logits = linear("fc3", linear("bottleneck.decoder", code))
    loss = functional.cross_entropy(logits, batch[1]) + 0.3 * spread
    for name, value in zip(
        state.parameters, torch.autograd.grad(loss, list(state.parameters.values())), strict=True
    ):
        torch.testing.assert_close(first[name], value, rtol=1e-4, atol=1e-6)


def test_what_it_tells_and_what_it_refuses() -> None:
    assert Precode(beta=0.1).facts(PLAN) == (RandomCode(beta=0.1),)
    assert Chain(defenses=(Precode(),)).privacy(PLAN) is None
    with pytest.raises(InputError, match=r"Precode.size = 0"):
        Precode(size=0)
    with pytest.raises(InputError, match=r"Precode.beta = -1"):
        Precode(beta=-1.0)
    with pytest.raises(InputError, match=r"ModelConfig.bottleneck = 4: must be null"):
        Precode().on_model(ModelConfig(bottleneck=4))
    with pytest.raises(InputError, match=r"ModelConfig.bottleneck = 0"):
        ModelConfig(bottleneck=0)
    with pytest.raises(InputError, match="one change of the network"):
        Chain(defenses=(Precode(), Precode()))
    with pytest.raises(InputError, match="fixed before anything is computed"):
        Chain(defenses=(Soteria(), Precode()))
    with pytest.raises(InputError, match="dp_sgd takes gradients of the cross-entropy alone"):
        Chain(defenses=(Precode(), DPSGD()))


def test_the_attacker_reads_the_draw_off_the_gradients(faces: ImageDataset) -> None:
    """With it matching is exact: at the true image the loss is what it is without noise."""
    told, truth = seen(faces, SMALL)
    untold, _ = seen(faces, SMALL, told=False)
    model = build_model(told.model)
    noise = solved_noise(told, gradient_estimate(told), "bottleneck")
    assert noise is not None
    expected = draw_code_noise(
        Bottleneck(1, 32), 1, Chain().clients(seed=1, plan=PLAN).draws(0, 0), torch.zeros(1)
    )
    torch.testing.assert_close(noise, expected, rtol=1e-2, atol=1e-3)
    assert observed_head(model, told).first == "fc1"
    assert observed_head(model, untold).first == "fc2"
    losses = []
    for observation in (told, untold):
        attack = Matching(tv_weight=0.0)
        problem = problem_of(attack, observation, model, generator("attack"))
        image = truth.images[None].clone().requires_grad_(True)
        losses.append(float(problem.losses(image, None, [0]).detach()) / float(problem.matched.squares.sum()))
    assert losses[0] < 1e-5 < 1e-2 < losses[1]


@pytest.mark.slow
def test_an_attacker_that_knows_of_it_inverts_what_lies_in_front(faces: ImageDataset) -> None:
    for victim in range(2):
        told, truth = seen(faces, SMALL, victim=victim)
        untold, _ = seen(faces, SMALL, victim=victim, told=False)
        assert attacked(told, truth, FEATURES) > attacked(untold, truth, FEATURES) + 5.0
        assert attacked(told, truth, FEATURES) > of_mean(told, truth) + 5.0


@pytest.mark.parametrize("told", [True, False])
def test_convolutions_tell_the_image_whether_it_is_known_or_not(faces: ImageDataset, told: bool) -> None:
    """A bottleneck in front of the last layer leaves what convolutions' gradients tell of their inputs."""
    observation, truth = seen(faces, SMALL, told=told)
    assert attacked(observation, truth, AUTO) > of_mean(observation, truth) + 50.0


def test_zeros_in_front_of_the_bottleneck_tell_images_apart(faces: ImageDataset) -> None:
    told, truth = seen(faces, SMALL, batch=2)
    found = AUTO(told, build_model(told.model), generator("attack", 0))
    assert found.method == "analytic: features"
    assert quality(found.images, truth) > of_mean(told, truth) + 5.0


@pytest.mark.parametrize(
    "others",
    [(Soteria(ratio=0.5, probes=8),), (Prune(ratio=0.5),), (ClipOnly(max_norm=0.1), NoiseOnly(sigma=1e-4))],
    ids=["soteria", "prune", "noise"],
)
def test_it_goes_before_what_is_done_to_gradients(
    faces: ImageDataset, others: tuple[AnyDefense, ...]
) -> None:
    told, truth = seen(faces, SMALL, *others)
    assert attacked(told, truth, AUTO) > of_mean(told, truth) - 0.5


@pytest.mark.parametrize("signal", ["gradients", "one_step_update", "local_update"])
@pytest.mark.parametrize("kind", ["cnn64", "lenet", "mlp", pytest.param("resnet18", marks=pytest.mark.slow)])
def test_every_signal_of_every_network_is_captured_and_attacked(
    faces: ImageDataset, signal: Signal, kind: ModelName
) -> None:
    """Two images, whose draws are optimised with them, from the mean image on: no worse than it."""
    iterations = 5 if kind == "resnet18" else 15
    fallback = Matching(iterations=iterations, init="mean", lr=0.01, tv_weight=1e-4)
    told, truth = seen(faces, SMALL, model=ModelConfig(kind=kind), signal=signal, batch=2, max_steps=2)
    found = replace(AUTO, fallback=fallback)(told, build_model(told.model), generator("attack", 0))
    assert bool(found.images.isfinite().all())
    assert quality(found.images, truth) > of_mean(told, truth) - 1.0


@pytest.mark.slow
def test_a_sweep_runs_through_it(faces_root: Path, tmp_path: Path) -> None:
    changed = sweep(
        faces_root,
        cells=[{"name": "precode", "defense": [{"kind": "precode", "size": 16}]}],
        victims={"tuning": 0, "test": 2},
        capture={"round": 1},
        attackers=both({"kind": "analytic", "inversion": {"evaluations": 120}}),
    )
    rows = run_quietly(changed, tmp_path)
    assert set(rows["status"]) == {"ok"}
    assert set(rows["defense"]) == {"precode"}
    assert rows["weights_accuracy"].notna().all()
    means = rows.groupby("attacker")["psnr"].mean()
    assert means["adaptive"] > means["generic"] + 10.0
