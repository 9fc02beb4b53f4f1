"""The attack on transformers: exact where its equations hold, through noise, and what it says where they don't."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from attack_core.attacks.auto import Auto
from attack_core.attacks.token_inversion import TokenInversion
from attack_core.matching.matching import Matching
from attack_core.solving.by_tokens.batch import batch_tokens
from attack_core.solving.by_tokens.solvable import sends_nothing_down
from fl_core.base.errors import InputError
from fl_core.base.rng import generator
from fl_core.base.shape import ImageShape
from fl_core.data.dataset import ImageDataset
from fl_core.data.kinds.celeba import open_celeba
from fl_core.federation.client import LocalTraining, train_locally
from fl_core.models.build import build_model
from fl_core.models.config import ModelConfig, TransformerConfig
from fl_core.threat.facts import Noise
from fl_core.threat.observation import Observation
from tests.support.matched import grey, observed, score
from tests.support.transformers import own

VIT = ModelConfig(kind="vit", image_size=32, vit=TransformerConfig(patch=4, width=192, depth=6, heads=6))
SMALL = ModelConfig(kind="vit", image_size=16, vit=TransformerConfig(width=32, depth=2, heads=2))
WIDE = replace(SMALL, classes=10, vit=TransformerConfig(width=128, depth=2, heads=2))
"""With more numbers in a token than two patches have."""
SHORT = TokenInversion(fallback=Matching(iterations=2))


def noisy(observation: Observation, sigma: float, *, told: bool) -> Observation:
    draw = generator("noise")
    tensors = {
        name: value + sigma * torch.randn(value.shape, generator=draw)
        for name, value in observation.tensors.items()
    }
    facts = (Noise(distribution="gaussian", sigma=sigma),) if told else ()
    return replace(observation, tensors=tensors, facts=facts)


@pytest.mark.parametrize("attack", [SHORT, Auto()])
def test_one_image_of_a_transformer_is_exact(faces_root: Path, attack: TokenInversion | Auto) -> None:
    faces = open_celeba(faces_root, shape=ImageShape.square(32))
    observation, truth = observed(faces, VIT)
    found = attack(observation, build_model(VIT), generator("attack"))
    assert found.method == "tokens: least squares"
    assert score(found.images, truth.images) > 80.0
    assert torch.equal(found.labels, truth.labels)
    assert found.loss < 1e-6
    assert "of which 64 directions follow" in found.notes[0]


def test_a_delta_over_several_steps_on_one_image_holds_the_same_equations(faces: ImageDataset) -> None:
    observation, truth = observed(faces, SMALL)
    local = LocalTraining(lr=0.05, momentum=0.9)
    steps = [(truth.images, truth.labels)] * 3
    after = train_locally(build_model(SMALL), observation.state, steps, local).state.parameters
    delta = {name: after[name] - value for name, value in observation.state.parameters.items()}
    moved = replace(
        observation, signal="local_update", tensors=delta, steps=3, batch_size=1, lr=0.05, momentum=0.9
    )
    found = SHORT(moved, build_model(SMALL), generator("attack"))
    # What float32 leaves of the difference of weights is noise, and the only error.
    assert score(found.images, truth.images) > grey(truth.images) + 25.0
    assert torch.equal(found.labels, truth.labels)


def test_fewer_numbers_than_tokens_leave_little_to_the_prior(faces: ImageDataset) -> None:
    narrow = replace(SMALL, vit=TransformerConfig(patch=2, width=60, depth=2, heads=2))
    observation, truth = observed(faces, narrow)
    found = SHORT(observation, build_model(narrow), generator("attack"))
    # 64 patches; LayerNorm takes one of 60 equations.
    assert "of which 59 directions follow" in found.notes[0]
    assert score(found.images, truth.images) > grey(truth.images) + 10.0


@pytest.mark.parametrize("told", [True, False])
def test_noise_costs_less_than_it_would_least_squares(faces: ImageDataset, told: bool) -> None:
    observation, truth = observed(faces, SMALL)
    found = SHORT(noisy(observation, 1e-3, told=told), build_model(SMALL), generator("attack"))
    assert found.outcome == "analytic"
    assert score(found.images, truth.images) > grey(truth.images) + 3.0


def test_more_images_than_the_head_tells_apart_fall_back_and_say_why(faces: ImageDataset) -> None:
    # Errors at two logits are one number each.
    two = replace(WIDE, classes=2)
    observation, _ = observed(faces, two, batch=2)
    found = SHORT(observation, build_model(two), generator("attack"))
    assert found.outcome == "matching"
    assert found.notes[0] == (
        "tokens: the gradient of head has 1 directions for 2 images; fell back to matching"
    )


@pytest.mark.slow
def test_two_images_of_a_transformer_come_apart(faces: ImageDataset) -> None:
    observation, truth = observed(faces, WIDE, batch=2)
    found = TokenInversion().shortened(0.5)(observation, build_model(WIDE), generator("attack"))
    assert score(found.images, truth.images) > grey(truth.images) + 10.0
    assert found.loss < 0.1


@pytest.mark.parametrize("attack", [TokenInversion().shortened(0.05), Auto().shortened(0.05)])
def test_labels_of_a_transformers_batch_follow_before_its_pictures(
    faces: ImageDataset, attack: TokenInversion | Auto
) -> None:
    observation, truth = observed(faces, WIDE, batch=2)
    found = attack(observation, build_model(WIDE), generator("attack"))
    assert found.method == "tokens: errors of a batch"
    assert found.notes[0].startswith("head and blocks.1.down tell 2 images apart, with labels and features")
    assert sorted(found.labels.tolist()) == sorted(truth.labels.tolist())
    assert found.history[-1, 0] < 0.5 * found.history[0, 0]
    assert found.work == 2 * found.iterations


def test_batches_that_errors_do_not_determine_are_refused(faces: ImageDataset) -> None:
    observation, _ = observed(faces, WIDE, batch=2)
    narrow, _ = observed(faces, replace(SMALL, classes=10), batch=2)
    refused = {
        "a sum over several steps": replace(observation, signal="local_update", steps=2, batch_size=1),
        "numbers are off": noisy(observation, 1e-5, told=True),
        "100 images are known as a sum only": replace(observation, examples=100, batch_size=100),
        "31 numbers for 96 of the patches of 2 images": narrow,
    }
    for reason, each in refused.items():
        with pytest.raises(InputError, match=reason):
            batch_tokens(each, build_model(each.model))


def test_a_head_of_zeros_is_said_and_not_attacked(faces: ImageDataset, tmp_path: Path) -> None:
    config = own(tmp_path, "torchvision")
    for batch in (1, 2):
        observation, _ = observed(faces, config, batch=batch)
        found = Auto()(observation, build_model(config), generator("attack"))
        assert found.outcome == "prior"
        assert "the gradient of conv_proj.weight is 0: the last layer's weights are 0" in found.notes[-1]
    alone = SHORT(observed(faces, config)[0], build_model(config), generator("attack"))
    assert alone.outcome == "prior"


def test_a_torchvision_transformer_with_a_head_is_attacked(faces: ImageDataset, tmp_path: Path) -> None:
    config = own(tmp_path, "torchvision", args={"zero": False})
    observation, truth = observed(faces, config)
    model = build_model(config)
    assert sends_nothing_down(observation, model) is None
    found = Auto()(observation, model, generator("attack"))
    assert score(found.images, truth.images) > 60.0
