"""The attack that chooses: what it takes, why it says so, and the one table of every attack on every model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from attack_core.attacks.analytic import Analytic
from attack_core.attacks.auto import Auto
from attack_core.attacks.convolution_inversion import ConvolutionInversion
from attack_core.attacks.registry import NAMED
from attack_core.base.types import Reconstruction
from attack_core.choosing.obstacles import obstacle_to_analytic
from attack_core.inversion.continuation import Continuation
from attack_core.local_sgd.simulation import Averaged, Simulated
from attack_core.matching.matching import Matching
from attack_core.metrics.controls import norm_matched_noise
from fl_core.base.errors import InputError
from fl_core.base.rng import generator
from fl_core.base.shape import ImageShape
from fl_core.base.types import Truth
from fl_core.data.dataset import ImageDataset
from fl_core.data.kinds.celeba import open_celeba
from fl_core.federation.client import LocalTraining, weight_update
from fl_core.models.build import build_model, initial_state
from fl_core.models.config import ModelConfig, ModelName
from fl_core.threat.facts import Noise
from fl_core.threat.model import ThreatModel
from fl_core.threat.observation import Observation, observe
from fl_core.threat.record import RoundRecord
from tests.support.claims import CLAIMS
from tests.support.matched import grey, observed, score
from tests.support.smooth import gelu_network

QUICK = Analytic(inversion=Continuation(evaluations=60), refinement=Continuation(evaluations=60))


LOOP = Matching(iterations=30, schedule="cosine", tv_weight=1e-4)


LEADS: dict[tuple[str, str], float] = {
    ("analytic", "mlp"): 60.0,
    ("analytic", "cnn64"): 10.0,
    ("analytic", "lenet"): 10.0,
    ("auto", "mlp"): 60.0,
    ("auto", "cnn64"): 10.0,
    ("auto", "lenet"): 10.0,
    ("auto", "vit"): 50.0,
    ("tokens", "vit"): 50.0,
    ("dlg", "lenet"): 3.0,
    ("idlg", "lenet"): 6.0,
    ("inverting_gradients", "lenet"): 4.0,
    ("deep_prior", "lenet"): 4.0,
}
"""By how many dB, where it is much."""


SLOW = {("analytic", "lenet"), ("analytic", "cnn64"), ("idlg", "lenet"), ("dlg", "lenet")}


def is_slow(name: str, kind: str) -> bool:
    """Whether it takes long; what else these attacks do there is tested below and beside the named attacks."""
    return kind == "resnet18" or (name, kind) in SLOW


def cheaper(name: str, kind: str) -> Any:
    attack = NAMED[name]
    if isinstance(attack, Auto):
        fallback = dataclasses.replace(attack.fallback, iterations=24)
        return dataclasses.replace(attack, convolutions=attack.convolutions.shortened(0.2), fallback=fallback)
    if isinstance(attack, ConvolutionInversion):
        fallback = dataclasses.replace(attack.fallback, iterations=16)
        return dataclasses.replace(attack.shortened(0.2), fallback=fallback)
    if isinstance(attack, Matching):
        # A deep prior begins near grey and first moves away from it.
        long = name == "deep_prior" or (name, kind) in LEADS
        iterations = 16 if kind == "resnet18" else 120 if long else 60
        return dataclasses.replace(attack, iterations=iterations, restarts=min(attack.restarts, 2))
    return attack


def test_the_table_names_every_attack() -> None:
    assert set(CLAIMS) == set(NAMED)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param(name, kind, marks=pytest.mark.slow if is_slow(name, kind) else ())
        for name in CLAIMS
        for kind in CLAIMS[name]
    ],
)
def test_every_attack_beats_grey_on_every_model_that_it_claims(
    faces_root: Path, name: str, kind: Any
) -> None:
    # At 16 pixels even resnet18 has features enough for the choice to fall on the analytic attack.
    size = 32 if (name, kind) == ("auto", "resnet18") else 16
    faces = open_celeba(faces_root, shape=ImageShape.square(size))
    observation, truth = observed(faces, ModelConfig(kind=kind, image_size=size))
    attack, model = cheaper(name, kind), build_model(observation.model)
    found = attack(observation, model, generator("attack"))
    assert found.images.shape == truth.images.shape
    assert float(found.images.abs().max()) <= 1.0
    assert found.failed == 0
    assert found.method
    if isinstance(attack, Matching):
        assert len(found.candidates) == attack.restarts
        assert bool(torch.isfinite(found.history).all())
        assert bool((found.history[1:].min(0).values < found.history[0]).all())
    if kind == "resnet18":
        noise = norm_matched_noise(observation, generator("control"))
        bar = score(attack(noise, model, generator("attack")).images, truth.images)
    else:
        bar = grey(truth.images) + LEADS.get((name, kind), 0.0)
    assert score(found.images, truth.images) > bar


def attacked_by_auto(observation: Observation, **settings: Any) -> Reconstruction:
    attack = Auto(**({"analytic": QUICK, "fallback": LOOP} | settings))
    return attack(observation, build_model(observation.model), generator("attack"))


def cnn(faces: ImageDataset, batch: int = 1) -> tuple[Observation, Truth]:
    return observed(faces, ModelConfig(kind="cnn64", image_size=16), batch=batch)


def test_one_image_and_a_small_batch_are_solved(faces: ImageDataset) -> None:
    for batch, method, note in (
        (1, "convolutions: inputs", "from the row space of their gradients"),
        (2, "analytic: features", "from its gradients"),
    ):
        found = attacked_by_auto(cnn(faces, batch)[0])
        assert (found.outcome, found.method) == ("analytic", method)
        assert any(note in told for told in found.notes)


@pytest.mark.parametrize(
    ("kind", "batch", "train", "reason"),
    [
        ("resnet18", 1, False, "layer fc has 512 features for 3072 pixels"),
        ("resnet18", 2, True, "BatchNorm in train mode mixes the images of a batch"),
        ("lenet", 2, False, "no ReLU between fully connected layers tells 2 images apart"),
    ],
)
def test_what_stands_in_the_way_is_said(
    faces: ImageDataset, kind: Any, batch: int, train: bool, reason: str
) -> None:
    size = 32 if kind == "resnet18" else 16
    config = ModelConfig(kind=kind, image_size=size, batch_norm="train" if train else "eval")
    state = initial_state(config, generator("model"))
    observation = Observation(
        signal="gradients",
        model=config,
        state=state,
        tensors={name: torch.ones_like(value) for name, value in state.parameters.items()},
        examples=batch,
        clients=1,
        batch_size=batch,
        steps=1,
        lr=0.1,
        momentum=0.0,
    )
    assert obstacle_to_analytic(observation, build_model(config)) == reason


def test_known_noise_sends_a_batch_to_matching_and_one_image_not(faces: ImageDataset) -> None:
    noise = (Noise(distribution="gaussian", sigma=1e-4),)
    one, two = (dataclasses.replace(cnn(faces, batch)[0], facts=noise) for batch in (1, 2))
    model = build_model(one.model)
    assert obstacle_to_analytic(one, model) is None
    assert "known noise hides which units 2 images" in str(obstacle_to_analytic(two, model))
    found = attacked_by_auto(two, fallback=dataclasses.replace(LOOP, iterations=2))
    assert found.outcome == found.method == "matching"
    assert found.notes[0].startswith("auto: matching, because the known noise")


def local_update(faces: ImageDataset, *, epochs: int, kind: ModelName = "cnn64") -> Observation:
    config = ModelConfig(kind=kind, image_size=16)
    state, model = initial_state(config, generator("model")), build_model(config)
    images, labels = faces.batch(faces.split("train")[:2])
    local = LocalTraining(lr=0.01, momentum=0.0)
    batches = list(zip(images.split(1), labels.split(1), strict=True)) * epochs
    update, _ = weight_update(model, state, batches, local, client=0, examples=2)
    record = RoundRecord(
        signal="local_update", round=0, model=config, state=state, batch_size=1, updates=(update,)
    )
    return observe(record, ThreatModel())


def test_several_epochs_come_apart_behind_convolutions(faces: ImageDataset) -> None:
    found = attacked_by_auto(local_update(faces, epochs=2))
    assert found.outcome == "analytic"
    assert any("seen several times" in note for note in found.notes)


def test_several_epochs_of_pixels_are_simulated(faces: ImageDataset) -> None:
    observation = local_update(faces, epochs=2, kind="mlp")
    assert observation.steps == 4
    found = attacked_by_auto(observation, fallback=dataclasses.replace(LOOP, iterations=2))
    assert found.notes[0] == ("auto: matching, because 4 local steps see each of 2 images more than once")
    assert found.outcome == found.method == "matching"
    attack, model = Auto(fallback=LOOP), build_model(observation.model)
    assert isinstance(attack._fallback(observation, model).local, Simulated)
    one = cnn(faces)[0]
    assert isinstance(attack._fallback(one, build_model(one.model)).local, Averaged)


def test_one_epoch_is_followed_step_by_step(faces: ImageDataset) -> None:
    found = attacked_by_auto(local_update(faces, epochs=1))
    assert found.method == "analytic: features along the steps"


def test_a_feature_weight_needs_one_image(faces: ImageDataset) -> None:
    observation, _ = cnn(faces, 2)
    attack = Matching(iterations=1, feature_weight=0.1)
    with pytest.raises(InputError, match=r"Matching\.feature_weight = 0\.1: the signal holds 2 images"):
        attack(observation, build_model(observation.model), generator("attack"))
    with pytest.raises(InputError, match=r"feature_weight = -1"):
        Matching(feature_weight=-1)


def test_features_are_part_of_the_loss(faces: ImageDataset) -> None:
    observation, truth = cnn(faces)
    model = build_model(observation.model)
    plain, more = (
        Matching(iterations=1, feature_weight=weight)(observation, model, generator("attack"))
        for weight in (0.0, 100.0)
    )
    assert float(more.history[0, 0]) > float(plain.history[0, 0]) + 1.0
    assert truth.images.shape == more.images.shape


def test_features_are_tried_where_convolutions_explain_nothing(faces: ImageDataset, tmp_path: Path) -> None:
    observation, truth = observed(faces, gelu_network(tmp_path))
    model = build_model(observation.model)
    # Eight evaluations lead the search through the convolutions nowhere.
    lost = ConvolutionInversion(inversion=Continuation(evaluations=8, stages=8))
    alone = lost(observation, model, generator("attack"))
    found = Auto(analytic=QUICK, convolutions=lost)(observation, model, generator("attack"))
    assert alone.loss > 0.1
    assert found.loss < alone.loss
    assert found.method == "analytic: features, refined"
    assert found.notes[0].startswith("auto: features, which explain the gradient better")
    assert found.iterations > alone.iterations
    assert score(found.images, truth.images) > score(alone.images, truth.images) + 3.0
