"""Patches from the span of a layer's tokens: attention alone, several steps, noise, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from attack_core.attacks.auto import Auto
from attack_core.attacks.token_inversion import TokenInversion
from attack_core.matching.matching import Matching
from attack_core.tokens.spanning_layer import find_spanning
from fl_core.base.errors import InputError
from fl_core.base.rng import generator
from fl_core.base.shape import ImageShape
from fl_core.data.dataset import ImageDataset
from fl_core.federation.client import LocalTraining, train_locally
from fl_core.models.build import build_model, initial_state
from fl_core.models.config import ModelConfig, TransformerConfig
from fl_core.threat.facts import Noise
from tests.support.matched import grey, observed, score
from tests.support.transformers import own

SIZES = TransformerConfig(patch=4, width=96, depth=2, heads=2)
ATTENTION = ModelConfig(kind="vit", image_size=16, vit=SIZES, trainable=("blocks.*.attention.*",))
SHORT = TokenInversion(fallback=Matching(iterations=2))


@pytest.mark.parametrize("attack", [SHORT, Auto()])
def test_an_update_of_the_attention_alone_holds_the_picture(
    faces: ImageDataset, attack: TokenInversion | Auto
) -> None:
    observation, truth = observed(faces, ATTENTION)
    assert all("attention" in name for name in observation.tensors)
    found = attack(observation, build_model(ATTENTION), generator("attack"))
    assert found.method == "tokens: least squares"
    assert "which span 17 of 17 tokens" in found.notes[0]
    assert score(found.images, truth.images) > 45.0
    # No last layer was sent, from which labels are read; with the picture they follow.
    assert torch.equal(found.labels, truth.labels)
    assert found.loss < 1e-3


def test_what_clients_train_besides_does_not_matter(faces: ImageDataset) -> None:
    config = replace(ATTENTION, trainable=("blocks.0.attention.qkv.weight", "head.*"))
    observation, truth = observed(faces, config)
    found = SHORT(observation, build_model(config), generator("attack"))
    assert score(found.images, truth.images) > 45.0
    assert torch.equal(found.labels, truth.labels)


def test_a_delta_over_several_steps_spans_the_same_tokens(faces: ImageDataset) -> None:
    observation, truth = observed(faces, ATTENTION)
    local = LocalTraining(lr=0.05, momentum=0.9)
    steps = [(truth.images, truth.labels)] * 3
    after = train_locally(build_model(ATTENTION), observation.state, steps, local).state.parameters
    delta = {name: after[name] - value for name, value in observation.state.parameters.items()}
    moved = replace(
        observation, signal="local_update", tensors=delta, steps=3, batch_size=1, lr=0.05, momentum=0.9
    )
    found = SHORT(moved, build_model(ATTENTION), generator("attack"))
    # Differences of weights are rounded by more than gradients are.
    assert score(found.images, truth.images) > grey(truth.images) + 8.0


def test_layers_that_move_in_front_are_refused_over_several_steps(faces: ImageDataset) -> None:
    config = replace(ATTENTION, trainable=("blocks.*.attention.*", "blocks.0.norm1.*"))
    observation, _ = observed(faces, config)
    moved = replace(observation, signal="local_update", steps=3, batch_size=1, lr=0.05, momentum=0.0)
    found = SHORT(moved, build_model(config), generator("attack"))
    assert found.outcome == "matching"
    assert "layers in front of 'blocks.0.attention.qkv' move from step to step" in found.notes[0]


@pytest.mark.parametrize(("share", "gain"), [(1e-6, 8.0), (1e-3, 2.0)])
def test_known_noise_leaves_as_many_directions_as_stand_out(
    faces: ImageDataset, share: float, gain: float
) -> None:
    observation, truth = observed(faces, ATTENTION)
    weight = observation.tensors["blocks.0.attention.qkv.weight"]
    sigma = share * float(weight.norm()) / weight.numel() ** 0.5
    draw = generator("noise")
    tensors = {
        name: value + sigma * torch.randn(value.shape, generator=draw)
        for name, value in observation.tensors.items()
    }
    facts = (Noise(distribution="gaussian", sigma=sigma),)
    found = SHORT(
        replace(observation, tensors=tensors, facts=facts), build_model(ATTENTION), generator("attack")
    )
    assert found.outcome == "analytic"
    assert "known noise" in found.notes[0]
    assert score(found.images, truth.images) > grey(truth.images) + gain


def test_fixed_positions_and_no_norm_are_no_hindrance(faces: ImageDataset, tmp_path: Path) -> None:
    # torch.nn's encoder norms behind the attention; its positions here are buffers.
    config = own(tmp_path, "mean", args={"learned": False, "width": 96})
    observation, truth = observed(faces, config)
    found = SHORT(observation, build_model(config), generator("attack"))
    assert "which span 16 of 16 tokens" in found.notes[0]
    assert score(found.images, truth.images) > 40.0


def test_torchvisions_attention_is_found(tmp_path: Path) -> None:
    config = replace(own(tmp_path, "torchvision", args={"width": 80}), trainable=("*self_attention*",))
    state = initial_state(config, generator("model"))
    found = find_spanning(build_model(config), state, ImageShape.square(16))
    assert found.name == "encoder.layers.encoder_layer_0.self_attention"
    assert found.norm == "encoder.layers.encoder_layer_0.ln_1"
    assert (found.first, found.tokens) == (1, 17)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trainable": ("blocks.1.*",)}, "depend on several patches each"),
        ({"trainable": ("head.*",)}, "clients train no layer that sees the tokens of patches"),
        (
            {"vit": replace(SIZES, width=60)},
            "has 60 inputs, fewer than 17 tokens and the 48 numbers of a patch",
        ),
    ],
)
def test_where_no_layer_spans_its_tokens_it_says_why(changes: dict[str, object], message: str) -> None:
    config = replace(ATTENTION, **changes)  # type: ignore[arg-type]
    state = initial_state(config, generator("model"))
    with pytest.raises(InputError, match=message):
        find_spanning(build_model(config), state, ImageShape.square(16))


def test_as_many_outputs_as_tokens_tell_no_span(faces: ImageDataset, tmp_path: Path) -> None:
    config = own(tmp_path, "Narrow")
    observation, _ = observed(faces, config)
    found = SHORT(observation, build_model(config), generator("attack"))
    assert found.outcome == "matching"
    assert "layer 'mixed' has 16 outputs for 16 tokens" in found.notes[0]


def test_a_head_alone_leaves_the_prior_and_the_label(faces: ImageDataset) -> None:
    config = replace(ATTENTION, vit=replace(SIZES, width=48), trainable=("head.*",))
    observation, truth = observed(faces, config)
    found = Auto()(observation, build_model(config), generator("attack"))
    assert found.outcome == "prior"
    assert (
        "clients train nothing in front of layer head, whose 48 features hardly limit 768 pixels"
        in found.notes[-1]
    )
    assert torch.equal(found.labels, truth.labels)
