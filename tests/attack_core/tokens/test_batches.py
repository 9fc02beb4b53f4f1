"""A batch behind a transformer: images told apart at the class token, and what their pictures have to explain."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from attack_core.tokens.batches import BatchTokens
from attack_core.tokens.class_token import ClassToken, Separated, separate
from attack_core.tokens.embedding import find_embedding
from fl_core.base.errors import InputError
from fl_core.base.rng import generator
from fl_core.base.types import ModelState
from fl_core.federation.client import loss_gradient
from fl_core.models.build import build_model, initial_state
from fl_core.models.config import ModelConfig, TransformerConfig
from fl_core.models.forward import layer_input
from tests.support.transformers import own

TEN = ModelConfig(kind="vit", image_size=16, classes=10, vit=TransformerConfig(width=32, depth=2, heads=2))
LABELS = torch.tensor([3, 7, 3])


def pictures(count: int = 3) -> Tensor:
    return torch.rand((count, 3, 16, 16), generator=torch.Generator().manual_seed(1)) * 2.0 - 1.0


def told_apart(
    config: ModelConfig, images: Tensor, labels: Tensor
) -> tuple[ClassToken, ModelState, Separated]:
    model, state = build_model(config), initial_state(config, generator("model"))
    layers = ClassToken.of(model, state, config.shape)
    gradients = loss_gradient(model, state, (images, labels))
    return layers, state, separate(layers, state, gradients, len(images))


def test_features_and_labels_of_each_image_follow_from_three_gradients() -> None:
    layers, state, found = told_apart(TEN, pictures(), LABELS)
    assert (layers.last, layers.norm, layers.head) == ("blocks.1.down", "norm", "head")
    true = layer_input(build_model(TEN), state, "head", pictures())
    # In any order; two of the three images have one label.
    order = torch.cdist(true, found.features).argmin(1)
    assert sorted(order.tolist()) == [0, 1, 2]
    assert torch.equal(found.labels[order], LABELS)
    torch.testing.assert_close(found.features[order], true, atol=1e-3, rtol=1e-3)


def test_images_of_torchvisions_transformer_come_apart(tmp_path: Path) -> None:
    config = own(tmp_path, "torchvision", args={"zero": False})
    layers, state, found = told_apart(config, pictures(1), torch.tensor([1]))
    assert layers.head == "heads.head"
    true = layer_input(build_model(config), state, "heads.head", pictures(1))
    torch.testing.assert_close(found.features, true, atol=1e-4, rtol=1e-4)
    assert found.labels.tolist() == [1]


def test_two_copies_of_an_image_do_not_come_apart() -> None:
    twice = pictures(1).repeat(2, 1, 1, 1)
    with pytest.raises(InputError, match="has 1 directions for 2 images"):
        told_apart(TEN, twice, torch.tensor([3, 3]))


def test_noise_that_nobody_told_of_is_refused() -> None:
    model, state = build_model(TEN), initial_state(TEN, generator("model"))
    draw = torch.Generator().manual_seed(0)
    noisy = {
        name: value + 1e-4 * torch.randn(value.shape, generator=draw)
        for name, value in loss_gradient(model, state, (pictures(), LABELS)).items()
    }
    with pytest.raises(InputError, match="directions for 3 images"):
        separate(ClassToken.of(model, state, TEN.shape), state, noisy, 3)


@pytest.mark.parametrize(
    "config", [ModelConfig(kind="mlp", image_size=16), ModelConfig(kind="cnn64", image_size=16)]
)
def test_networks_without_a_norm_in_front_of_the_head_are_refused(config: ModelConfig) -> None:
    with pytest.raises(InputError, match="no LayerNorm of tokens"):
        ClassToken.of(build_model(config), initial_state(config, generator("model")), config.shape)


def test_a_head_behind_the_mean_of_tokens_is_refused(tmp_path: Path) -> None:
    config = own(tmp_path, "mean")
    with pytest.raises(InputError, match="no LayerNorm of tokens"):
        ClassToken.of(build_model(config), initial_state(config, generator("model")), config.shape)


def problem(images: Tensor) -> BatchTokens:
    model = build_model(TEN)
    layers, state, found = told_apart(TEN, images, LABELS)
    embedding = find_embedding(model, state, TEN.shape)
    gradient = loss_gradient(model, state, (images, LABELS))[embedding.positions]
    return BatchTokens(
        model=model,
        state=state,
        embedding=embedding,
        errors=gradient[0],
        labels=found.labels,
        head=layers.head,
        features=found.features,
    )


def test_the_true_pictures_in_the_order_of_the_features_leave_nothing() -> None:
    images = pictures()
    known = problem(images)
    true = layer_input(known.model, known.state, "head", images)
    order = torch.cdist(known.features, true).argmin(1)
    assert float(known.mismatch(images[order]).detach()) < 1e-6
    # Another order has the same sum of errors, up to labels, and is told by the features.
    assert float(known.mismatch(images[order.roll(1)]).detach()) > 1e-2
    assert float(known.mismatch(torch.zeros_like(images)).detach()) > 1e-2


def test_a_descent_direction_exists_and_the_state_is_left_alone() -> None:
    known = problem(pictures())
    start = (0.3 * torch.randn((3, 3, 16, 16), generator=torch.Generator().manual_seed(2))).requires_grad_(
        True
    )
    before = known.mismatch(start)
    (slope,) = torch.autograd.grad(before, start)
    after = known.mismatch(start.detach() - 1e-2 * slope / slope.abs().max())
    assert float(after.detach()) < float(before.detach())
    assert not any(value.requires_grad for value in known.state.parameters.values())
    other = replace(known, features=known.features + 1.0)
    assert float(other.mismatch(start).detach()) > float(before.detach())


def test_strong_patches_have_gentle_slopes() -> None:
    images = 0.2 * pictures()
    # One patch of one picture has five times the contrast.
    images[1, :, 4:8, 8:12] *= 5.0
    slopes = problem(images).slopes(images, torch.Generator().manual_seed(0))
    assert slopes.shape == images.shape
    assert float(slopes.max()) == 1.0
    strong = slopes[1, :, 4:8, 8:12]
    assert float(strong.max()) == float(strong.min())
    assert float(strong.mean()) < 0.6 * float(slopes[1].mean())
