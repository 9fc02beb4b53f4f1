"""Clients that train a part: frozen parameters stay part of the network, adapters begin as nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from defenses.secure.packing import Layout
from fl_core.base.errors import InputError
from fl_core.base.own_code import OwnCode
from fl_core.base.rng import generator
from fl_core.federation.client import LocalTraining, weight_update
from fl_core.models.build import build_model, initial_state
from fl_core.models.config import ModelConfig, TransformerConfig
from fl_core.models.finetuning.low_rank import LowRankConfig
from fl_core.models.finetuning.trainable import frozen_parameters
from fl_core.models.forward import predict
from fl_core.models.weights import WeightsFile

VIT = ModelConfig(kind="vit", image_size=16, classes=3, vit=TransformerConfig(width=32, depth=2, heads=2))
LORA = replace(VIT, lora=LowRankConfig(layers=("blocks.*.attention.qkv",), rank=4, alpha=2.0))
IMAGES = torch.rand((2, 3, 16, 16), generator=torch.Generator().manual_seed(1)) * 2 - 1

_SOURCE = """
import torch
from torch import nn


class Tied(nn.Module):
    def __init__(self, trained=("last",)):
        super().__init__()
        self.first = nn.Linear(12, 12)
        self.second = nn.Linear(12, 12)
        self.second.weight = self.first.weight
        self.last = nn.Linear(12, 3)
        for name, value in self.named_parameters():
            value.requires_grad_(name.split(".")[0] in trained)

    def forward(self, images):
        return self.last(self.second(self.first(images.flatten(1)).relu()).relu())
"""


def _logits(config: ModelConfig) -> torch.Tensor:
    return predict(build_model(config), initial_state(config, generator("w")), IMAGES)


def test_a_frozen_network_is_the_same_network() -> None:
    head = replace(VIT, trainable=("head.*",))
    state, whole = initial_state(head, generator("w")), initial_state(VIT, generator("w"))
    assert list(state.parameters) == ["head.weight", "head.bias"]
    assert set(state.buffers) == whole.parameters.keys() - state.parameters.keys()
    assert torch.equal(_logits(head), _logits(VIT))


def test_adapters_begin_as_nothing_and_are_all_that_is_trained() -> None:
    state = initial_state(LORA, generator("w"))
    assert {name.rpartition("qkv.")[2] for name in state.parameters} == {"down.weight", "up.weight"}
    assert state.parameters["blocks.0.attention.qkv.down.weight"].shape == (4, 32)
    assert state.parameters["blocks.0.attention.qkv.up.weight"].shape == (96, 4)
    assert not bool(state.parameters["blocks.1.attention.qkv.up.weight"].any())
    assert torch.equal(_logits(LORA), _logits(VIT))


def test_an_adapter_adds_its_product() -> None:
    state, model = initial_state(LORA, generator("w")), build_model(LORA)
    layer, prefix = model.get_submodule("blocks.0.attention.qkv"), "blocks.0.attention.qkv."
    own = {
        name.removeprefix(prefix): torch.randn(
            value.shape, generator=torch.Generator().manual_seed(len(name))
        )
        for name, value in {**state.parameters, **state.buffers}.items()
        if name.startswith(prefix)
    }
    inputs = torch.randn((5, 32), generator=torch.Generator().manual_seed(2))
    found = torch.func.functional_call(layer, own, (inputs,))
    weight = own["weight"] + 2.0 / 4.0 * own["up.weight"] @ own["down.weight"]
    assert torch.allclose(found, inputs @ weight.T + own["bias"], atol=1e-4)


def test_adapters_and_others_are_trained_together() -> None:
    both = replace(LORA, trainable=("head.*",))
    names = set(initial_state(both, generator("w")).parameters)
    assert {"head.weight", "head.bias", "blocks.1.attention.qkv.up.weight"} <= names
    assert len(names) == 6


def test_an_update_moves_and_sends_what_is_trained_alone() -> None:
    model, state = build_model(LORA), initial_state(LORA, generator("w"))
    update, _ = weight_update(
        model,
        state,
        [(IMAGES, torch.tensor([0, 1]))] * 2,
        LocalTraining(lr=0.1),
        client=0,
        examples=2,
    )
    assert update.tensors.keys() == state.parameters.keys()
    assert update.buffers == {}
    # Two adapters, each from 32 numbers to 4 to 96: what secure sums and ciphertexts have to carry.
    assert Layout.of({**update.tensors, **update.buffers}).size == 2 * (4 * 32 + 96 * 4)
    # The second step moves `down` too: in the first the slope of a product with 0 is 0.
    assert all(bool(value.any()) for value in update.tensors.values())


def test_a_file_of_weights_need_not_hold_adapters(tmp_path: Path) -> None:
    whole = initial_state(VIT, generator("file"))
    torch.save(dict(whole.parameters), tmp_path / "w.pt")
    weights = WeightsFile.read("w.pt", tmp_path, where="model.weights")
    state = initial_state(replace(LORA, weights=weights), generator("w"))
    assert torch.equal(state.buffers["head.weight"], whole.parameters["head.weight"])
    assert bool(state.parameters["blocks.0.attention.qkv.down.weight"].any())


@pytest.mark.parametrize("trained", [("last",), ("second", "last")])
def test_an_own_networks_frozen_parameters_stay_frozen_with_both_names_of_tied_ones(
    tmp_path: Path, trained: tuple[str, ...]
) -> None:
    (tmp_path / "net.py").write_text(_SOURCE)
    code = OwnCode.read("net.py:Tied", tmp_path, where="model.factory")
    config = ModelConfig(factory=code, args={"trained": trained}, classes=3, image_size=2)
    state, model = initial_state(config, generator("w")), build_model(config)
    frozen = frozen_parameters(model)
    assert set(state.parameters) | frozen.keys() == {
        name
        for name, _ in build_model(replace(config, trainable=("*",))).named_parameters(remove_duplicate=False)
    }
    assert frozen["second.weight"] == "first.weight"
    assert predict(model, state, torch.zeros(1, 3, 2, 2)).shape == (1, 3)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (replace(VIT, trainable=("heads.*",)), r"model.trainable: 'heads.\*' fits no parameter"),
        (
            replace(VIT, lora=LowRankConfig(layers=("blocks.*.qvk",))),
            r"model.lora.layers: 'blocks.\*.qvk' fits no linear layer",
        ),
    ],
)
def test_a_pattern_that_fits_nothing_is_refused_with_what_there_is(config: ModelConfig, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        build_model(config)
    assert "embedding" in str(caught.value)
