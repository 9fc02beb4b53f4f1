"""The attack on convolutional networks: what it reads, what it finds, and where it leaves the image to others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from attack_core.attacks.auto import Auto
from attack_core.attacks.convolution_inversion import ConvolutionInversion
from attack_core.matching.matching import Matching
from attack_core.solving.by_convolutions.deep_inputs import deep_inputs
from fl_core.base.errors import InputError
from fl_core.base.rng import generator
from fl_core.base.shape import ImageShape
from fl_core.data.dataset import ImageDataset
from fl_core.data.kinds.celeba import open_celeba
from fl_core.models.build import build_model
from fl_core.models.config import ModelConfig
from fl_core.models.forward import layer_inputs
from fl_core.threat.facts import Noise
from tests.support.matched import observed, score

RESNET = ModelConfig(kind="resnet18", image_size=16)


@pytest.mark.slow
@pytest.mark.parametrize("attack", [ConvolutionInversion(), Auto()])
def test_a_face_behind_vgg11_is_found(faces_root: Path, attack: ConvolutionInversion | Auto) -> None:
    config = ModelConfig(kind="vgg11", image_size=32)
    observation, truth = observed(open_celeba(faces_root, shape=ImageShape.square(32)), config)
    found = attack(observation, build_model(config), generator("attack"))
    assert found.method == "convolutions: inputs"
    assert found.outcome == "analytic"
    assert score(found.images, truth.images) > 30.0, "512 features for 3,072 pixels"
    assert (found.labels == truth.labels).all()


@pytest.mark.slow
def test_steps_of_early_stages_do_not_mislead_later_ones_behind_eight_layers(faces_root: Path) -> None:
    """With forty pairs taken over from stage to stage two synthetic pictures ended at 21 and 46 dB here."""
    config = ModelConfig(kind="convnet", image_size=32)
    observation, truth = observed(open_celeba(faces_root, shape=ImageShape.square(32)), config)
    attack = ConvolutionInversion()
    attack = replace(attack, inversion=replace(attack.inversion, evaluations=160, stages=5))
    found = attack(observation, build_model(config), generator("attack"))
    assert score(found.images, truth.images) > 55.0


def test_what_it_reads_is_what_the_network_sees(faces: ImageDataset) -> None:
    observation, truth = observed(faces, RESNET)
    model = build_model(RESNET)
    known = deep_inputs(observation, model)
    seen = layer_inputs(model, observation.state, known.layers, truth.images)
    for values, wanted in zip(known.values, seen, strict=True):
        assert float((values - wanted).norm() / wanted.norm()) < 1e-3
    assert "for 768 pixels" in known.note


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"examples": 2}, "convolutions of 2 images see mixtures of them"),
        ({"facts": (Noise(distribution="gaussian", sigma=1e-4),)}, "a row space has to be exact"),
        ({"signal": "local_update", "steps": 2}, "the weights moved in 2 steps"),
    ],
)
def test_what_stands_in_its_way_is_said(faces: ImageDataset, changes: dict[str, object], reason: str) -> None:
    observation, _ = observed(faces, RESNET)
    with pytest.raises(InputError, match=reason):
        deep_inputs(replace(observation, **changes), build_model(RESNET))  # type: ignore[arg-type]


def test_a_network_with_few_channels_goes_to_matching(faces: ImageDataset) -> None:
    lenet = ModelConfig(kind="lenet", image_size=16)
    observation, _ = observed(faces, lenet)
    attack = ConvolutionInversion(fallback=Matching(iterations=2))
    found = attack(observation, build_model(lenet), generator("attack"))
    assert found.outcome == "matching"
    assert (
        found.notes[0]
        == "convolutions: no convolution's gradient determines its input; fell back to matching"
    )
