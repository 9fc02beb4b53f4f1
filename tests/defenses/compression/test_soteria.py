"""Soteria: what it cuts and leaves, and the attackers that do without what was cut."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from attack_core.attacks.analytic import Analytic
from attack_core.attacks.auto import Auto
from attack_core.choosing.obstacles import obstacle_to_analytic
from attack_core.inversion.continuation import Continuation
from attack_core.matching.presets import soft_matching
from attack_core.signal.signal_model import cut_columns, sent_numbers
from defenses.chain import AnyDefense, Chain
from defenses.compression.compression import Prune
from defenses.compression.representation import fully_connected, jacobian_norms, probed_norms, representation
from defenses.compression.soteria import Soteria
from defenses.mechanism.noise import ClipOnly, NoiseOnly
from fl_core.base.errors import InputError
from fl_core.base.rng import generator, stream
from fl_core.base.types import Signal
from fl_core.data.dataset import ImageDataset
from fl_core.federation.client import batch_gradient, trainable
from fl_core.federation.rounds import FederationConfig
from fl_core.models.build import build_model, initial_state
from fl_core.models.config import ModelConfig
from fl_core.threat.facts import PrunedRepresentation
from tests.support.defended import attacked, of_mean, quality, seen
from tests.support.small import both, run_quietly, sweep

LENET = ModelConfig(kind="lenet", image_size=8, classes=3)
PLAN = FederationConfig(rounds=1)
SHORT = replace(soft_matching(), iterations=150)
AUTO = Auto(analytic=Analytic(inversion=Continuation(evaluations=120), refine="never"), fallback=SHORT)


def batch_of(model: ModelConfig, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    draws = generator("images", count)
    images = torch.rand(count, 3, model.image_size, model.image_size, generator=draws) * 2 - 1
    return images, torch.arange(count) % model.classes


@pytest.mark.parametrize("count", [1, 2])
def test_the_norms_are_those_of_the_jacobian(count: int) -> None:
    model, state = build_model(LENET), initial_state(LENET, generator("model", 0))
    images, _ = batch_of(LENET, count)
    of = partial(representation, model, state, "fc")
    norms, found = jacobian_norms(of, images)
    for i in range(count):
        whole = torch.autograd.functional.jacobian(of, images[i : i + 1])
        torch.testing.assert_close(norms[i], whole.flatten(2).norm(dim=2).flatten(), rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(found, of(images))


def test_probes_estimate_the_norms_at_the_stated_error() -> None:
    """The mean of the estimated squares is right within 5%, and a scale that is 10% off is not."""
    model, state = build_model(LENET), initial_state(LENET, generator("model", 0))
    images, _ = batch_of(LENET, 1)
    of = partial(representation, model, state, "fc")
    exact, _ = jacobian_norms(of, images)
    estimated, _ = probed_norms(of, images, 400, stream("probes", 1))
    ratio = (estimated / exact).flatten()
    assert float(ratio.square().mean()) == pytest.approx(1.0, abs=0.05)
    assert float((1.1 * ratio).square().mean()) != pytest.approx(1.0, abs=0.05)
    assert 0.3 < float(ratio.std()) * (2 * 400) ** 0.5 < 1.5


@pytest.mark.parametrize(("layer", "kind"), [("first", "cnn64"), ("last", "cnn64"), ("first", "lenet")])
def test_it_cuts_the_columns_of_least_slope_and_leaves_everything_else(layer: str, kind: str) -> None:
    config = ModelConfig(kind=kind, image_size=8)  # type: ignore[arg-type]
    model, state = build_model(config), initial_state(config, generator("model", 0))
    batch = batch_of(config, 2)
    plain = batch_gradient(model, trainable(state), batch)
    defense = Soteria(ratio=0.25, layer=layer)  # type: ignore[arg-type]
    rule = defense.on_gradient(batch_gradient, stream("defense", 0), PLAN)
    defended = rule(model, trainable(state), batch)
    name = fully_connected(model)[0 if layer == "first" else -1]
    assert list(defended) == list(plain)
    for other in plain.keys() - {f"{name}.weight"}:
        assert torch.equal(defended[other], plain[other])
    norms, inputs = jacobian_norms(partial(representation, model, state, name), batch[0])
    slopes = (norms / inputs.abs().clamp_min(1e-30)).sum(0)
    cut = slopes.argsort(stable=True)[: round(0.25 * len(slopes))]
    expected = plain[f"{name}.weight"].clone()
    expected[:, cut] = 0.0
    assert torch.equal(defended[f"{name}.weight"], expected)


def test_the_same_stream_cuts_the_same_columns() -> None:
    config = ModelConfig(image_size=8)
    model, state, batch = (
        build_model(config),
        initial_state(config, generator("model", 0)),
        batch_of(config, 1),
    )
    cuts = []
    for seed in (1, 1, 2):
        rule = Soteria(probes=4).on_gradient(batch_gradient, stream("defense", seed), PLAN)
        cuts.append(rule(model, trainable(state), batch)["fc1.weight"].any(dim=0))
    assert torch.equal(cuts[0], cuts[1])
    assert not torch.equal(cuts[0], cuts[2])


def test_what_it_tells_and_what_it_refuses() -> None:
    assert Soteria(layer="last").facts(PLAN) == (PrunedRepresentation(layer="last"),)
    assert Chain(defenses=(Soteria(),)).privacy(PLAN) is None
    with pytest.raises(InputError, match=r"Soteria.ratio = 1.0"):
        Soteria(ratio=1.0)
    with pytest.raises(InputError, match=r"Soteria.probes = 0"):
        Soteria(probes=0)
    with pytest.raises(InputError, match="one change of how a gradient is taken"):
        Chain(defenses=(Soteria(), Soteria(layer="last")))
    with pytest.raises(InputError, match="before anything is done to it"):
        Chain(defenses=(ClipOnly(), Soteria()))


def test_a_layer_of_tokens_is_refused_before_anything_runs() -> None:
    vit = ModelConfig(kind="vit", image_size=16, classes=3)
    with pytest.raises(InputError, match=r"'embedding' sees several\. Use another `layer`"):
        Soteria().on_model(vit)
    assert Soteria(layer="last").on_model(vit) == vit
    frozen = replace(vit, trainable=("tokens.*",))
    with pytest.raises(InputError, match="clients train none of this network's"):
        Soteria(layer="last").on_model(frozen)


def test_the_attacker_relies_on_columns_that_the_signal_shows_uncut(faces: ImageDataset) -> None:
    """One step of one client shows them; more steps, or noise, and none of the layer's weight is relied on."""
    shown, _ = seen(faces, Soteria(ratio=0.5))
    mask = sent_numbers(shown)
    assert mask.keys() == {"fc1.weight"}
    assert torch.equal(mask["fc1.weight"][0], (shown.tensors["fc1.weight"] != 0).any(dim=0))
    assert cut_columns(shown, "fc1.weight") >= 512
    assert cut_columns(shown, "fc2.weight") == 0
    blurred = [
        seen(faces, Soteria(ratio=0.5, probes=4), signal="local_update", max_steps=3)[0],
        seen(faces, Soteria(ratio=0.5, probes=4), NoiseOnly(sigma=1e-3))[0],
    ]
    for observation in blurred:
        assert not sent_numbers(observation)["fc1.weight"].any()
        assert cut_columns(observation, "fc1.weight") == 1024
    assert sent_numbers(seen(faces, Soteria(ratio=0.5), told=False)[0]) == {}


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [0.5, 0.9], ids=["half", "most"])
def test_an_attacker_that_knows_of_it_does_without_the_cut_features(
    faces: ImageDataset, ratio: float
) -> None:
    for victim in range(2):
        told, truth = seen(faces, Soteria(ratio=ratio), victim=victim)
        untold, _ = seen(faces, Soteria(ratio=ratio), victim=victim, told=False)
        model = build_model(told.model)
        few = obstacle_to_analytic(told, model)
        assert (few is None) == (ratio == 0.5)
        features = replace(AUTO.analytic, decode=False)
        attack = features if few is None else AUTO.fallback
        found = attack(told, model, generator("attack", 0))
        assert quality(found.images, truth) > attacked(untold, truth, features) + 2.0
        assert quality(found.images, truth) > of_mean(told, truth) + 2.0


@pytest.mark.parametrize("ratio", [0.5, 0.9], ids=["half", "most"])
def test_what_lies_in_front_of_the_cut_features_is_decoded_all_the_same(
    faces: ImageDataset, ratio: float
) -> None:
    told, truth = seen(faces, Soteria(ratio=ratio))
    found = AUTO.analytic.by_decoding(told, build_model(told.model), generator("attack", 0))
    assert found is not None
    assert quality(found.images, truth) > 40.0


@pytest.mark.parametrize("told", [True, False])
def test_it_hides_nothing_of_what_convolutions_see(faces: ImageDataset, told: bool) -> None:
    observation, truth = seen(faces, Soteria(ratio=0.9), told=told)
    found = AUTO(observation, build_model(observation.model), generator("attack", 0))
    assert found.method == "convolutions: inputs"
    assert quality(found.images, truth) > of_mean(observation, truth) + 10.0


@pytest.mark.slow
@pytest.mark.parametrize("others", [(Prune(ratio=0.5),), (ClipOnly(max_norm=0.1), NoiseOnly(sigma=1e-4))])
def test_it_goes_before_what_is_done_to_updates(faces: ImageDataset, others: tuple[AnyDefense, ...]) -> None:
    told, truth = seen(faces, Soteria(ratio=0.5), *others)
    assert attacked(told, truth, AUTO) > of_mean(told, truth) - 0.5


def test_cut_pixels_of_a_network_without_convolutions_are_filled_in(faces: ImageDataset) -> None:
    """The first layer of an mlp sees the pixels: the second layer's gradients and the prior say what was cut."""
    told, truth = seen(faces, Soteria(ratio=0.3), model=ModelConfig(kind="mlp"))
    untold, _ = seen(faces, Soteria(ratio=0.3), model=ModelConfig(kind="mlp"), told=False)
    assert attacked(told, truth, AUTO) > attacked(untold, truth, AUTO) + 5.0


@pytest.mark.slow
@pytest.mark.parametrize("signal", ["gradients", "one_step_update", "local_update"])
@pytest.mark.parametrize("layer", ["first", "last"])
def test_every_signal_of_one_client_is_captured_and_attacked(
    faces: ImageDataset, signal: Signal, layer: str
) -> None:
    """Paired over two victims: knowing of the defense costs nothing, and the answer is no worse than the mean image."""
    known, ignored, mean = [], [], []
    fallback = replace(soft_matching(), iterations=20, init="mean", lr=0.01)
    # Images that do not come apart in ten rounds do not in a hundred, which take twenty CPU-seconds.
    attack = replace(AUTO, analytic=replace(AUTO.analytic, rounds=10), fallback=fallback)
    for victim in range(2):
        defense = Soteria(ratio=0.5, layer=layer, probes=16)  # type: ignore[arg-type]
        told, truth = seen(faces, defense, signal=signal, victim=victim, max_steps=2)
        untold, _ = seen(faces, defense, signal=signal, victim=victim, max_steps=2, told=False)
        known.append(attacked(told, truth, attack))
        ignored.append(attacked(untold, truth, attack))
        mean.append(of_mean(told, truth))
    assert sum(known) > sum(ignored) - 1.0
    assert sum(known) > sum(mean) - 1.0


@pytest.mark.slow
def test_a_sweep_runs_through_it(faces_root: Path, tmp_path: Path) -> None:
    changed = sweep(
        faces_root,
        cells=[{"name": "soteria", "defense": [{"kind": "soteria", "ratio": 0.3}]}],
        victims={"tuning": 0, "test": 2},
        attackers=both({"kind": "analytic"}),
    )
    rows = run_quietly(changed, tmp_path)
    assert set(rows["status"]) == {"ok"}
    assert set(rows["defense"]) == {"soteria"}
    means = rows.groupby("attacker")["psnr"].mean()
    assert means["adaptive"] > means["generic"]
