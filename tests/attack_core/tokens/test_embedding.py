"""Finding patch embeddings by what layers see and by what gradients satisfy, whatever a network's code looks like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from attack_core.tokens.embedding import find_embedding
from fl_core.base.errors import InputError
from fl_core.base.rng import generator
from fl_core.models.build import build_model, initial_state
from fl_core.models.config import ModelConfig, TransformerConfig
from tests.support.transformers import own


def found_in(config: ModelConfig) -> Any:
    return find_embedding(build_model(config), initial_state(config, generator("model")), config.shape)


ZOO = ModelConfig(
    kind="vit", image_size=(16, 24), channels=1, vit=TransformerConfig(width=16, depth=2, heads=2)
)


def test_patches_of_the_zoos_transformer_lie_row_by_row() -> None:
    found = found_in(ZOO)
    assert (found.weight, found.positions, found.first, found.tokens) == (
        "embedding.weight",
        "tokens.positions",
        1,
        24,
    )
    picture = torch.arange(16.0 * 24).view(1, 16, 24)
    patches = found.patches_of(picture)
    assert torch.equal(patches[7].view(4, 4), picture[0, 4:8, 4:8])
    assert torch.equal(found.picture_of(patches, torch.zeros_like(picture)), picture)


@pytest.mark.parametrize("name", ["torchvision", "mean"])
def test_other_peoples_transformers_are_found_with_their_normalisation(tmp_path: Path, name: str) -> None:
    found = found_in(own(tmp_path, name, mean=(0.5, 0.4, 0.3), std=(0.25, 0.2, 0.5)))
    assert found.tokens == 16
    # Pixels in [-1, 1] to (pixel / 2 + 1 / 2 - mean) / std, channel by channel.
    torch.testing.assert_close(found.scale[::16], 0.5 / torch.tensor([0.25, 0.2, 0.5]))
    torch.testing.assert_close(
        found.offset[::16], torch.tensor([0.0, 0.1 / 0.2, 0.2 / 0.5]), atol=1e-6, rtol=1e-5
    )
    assert found.first == (1 if name == "torchvision" else 0)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (ModelConfig(kind="cnn64", image_size=16), "does not see patches of it"),
        (ModelConfig(kind="mlp", image_size=16), "does not see patches of it"),
        (ModelConfig(kind="resnet18", image_size=32, batch_norm="train"), "mixes the images of a batch"),
    ],
)
def test_networks_without_patches_are_refused(config: ModelConfig, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        found_in(config)


@pytest.mark.parametrize("args", [{"learned": False}, {"normed": True}])
def test_positions_that_do_not_hold_the_errors_of_the_embedding_are_refused(
    tmp_path: Path, args: dict[str, Any]
) -> None:
    # Fixed positions have no gradient; behind a norm the positions' gradient is not the embedding's error.
    with pytest.raises(InputError, match="clients train no learned positions"):
        found_in(own(tmp_path, "mean", args=args))


def test_looking_for_it_leaves_weights_and_random_state_alone() -> None:
    state, model = initial_state(ZOO, generator("model")), build_model(ZOO)
    before, random = {name: value.clone() for name, value in state.parameters.items()}, torch.get_rng_state()
    find_embedding(model, state, ZOO.shape)
    assert all(torch.equal(state.parameters[name], value) for name, value in before.items())
    assert not any(value.requires_grad for value in state.parameters.values())
    assert torch.equal(torch.get_rng_state(), random)
