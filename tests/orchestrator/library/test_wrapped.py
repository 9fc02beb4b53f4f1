"""Updates, gradients and checkpoints of wrapped networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from attack_core.matching.matching import Matching
from fl_core.base.errors import InputError
from fl_core.base.types import ModelState
from orchestrator.library.files import load_gradient, load_update, save_update
from orchestrator.library.invert import invert
from orchestrator.library.known import Known
from orchestrator.library.network import subject
from orchestrator.library.updates import Update
from tests.support.signals import CLASSES, SPEC, gradient, labels, network, pictures


def test_extra_tensors_of_a_wrapped_network_are_refused() -> None:
    model = network()
    before = {f"module.{name}": value for name, value in model.state_dict().items()}
    before["module.more"] = torch.zeros(1)
    update = Update.between(before, {name: value + 0.1 for name, value in before.items()})
    with pytest.raises(InputError, match=r"holds 'module.more', which the model lacks"):
        invert(model, update, image=SPEC, classes=CLASSES, known=Known(lr=0.1))


def test_a_lightning_checkpoint_is_read(tmp_path: Path) -> None:
    model = network()
    for side, step in (("before", 0.0), ("after", 0.01)):
        weights = {f"net.{name}": value + step for name, value in model.state_dict().items()}
        torch.save({"state_dict": weights, "epoch": 3, "optimizer_states": []}, tmp_path / f"{side}.ckpt")
    update = load_update(before=tmp_path / "before.ckpt", after=tmp_path / "after.ckpt")
    found, _ = update.at(_state(model))
    assert found.tensors.keys() == dict(model.named_parameters()).keys()
    assert "'net.' before every name" in found.notes[0]


def test_a_gradient_of_a_wrapped_network_gives_the_image_back(tmp_path: Path) -> None:
    model, image = network(), pictures(1)
    sent = {f"_module.{name}": value for name, value in gradient(model, image, labels(1)).items()}
    torch.save(sent, tmp_path / "g.pt")
    read = load_gradient(tmp_path / "g.pt", model=model)
    found = invert(model, read, image=SPEC, classes=CLASSES)
    assert (found.images - image).abs().max() < 0.01
    assert any("Opacus" in note for note in found.notes)


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "npz"])
def test_an_update_of_tied_layers_may_have_both_names(tmp_path: Path, suffix: str) -> None:
    image, wide = pictures(1), 3 * 8 * 8
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(wide, wide), nn.ReLU(), nn.Linear(wide, wide), nn.Linear(wide, CLASSES)
    )
    model[3].weight = model[1].weight
    before = {name: value.clone() for name, value in model.state_dict().items()}
    sent = gradient(model, image, labels(1)) if suffix != "npz" else {}
    after = {
        name: value - 0.1 * sent.get("1.weight" if name == "3.weight" else name, 1.0)
        for name, value in before.items()
    }
    if suffix == "safetensors":
        save_update(tmp_path / "u.safetensors", before, after, lr=0.1)
        update = load_update(tmp_path / "u.safetensors")
    else:
        for side, weights in (("before", before), ("after", after)):
            path = tmp_path / f"{side}.{suffix}"
            if suffix == "pt":
                torch.save(weights, path)
            else:
                np.savez(path, *(value.numpy() for value in weights.values()))
        update = load_update(
            before=tmp_path / f"before.{suffix}", after=tmp_path / f"after.{suffix}", model=model
        )
    known = Known(lr=0.1, steps=1, examples=1)
    found = invert(model, update, image=SPEC, classes=CLASSES, known=known, attack=Matching(iterations=2))
    assert found.images.shape == image.shape
    torn = Update.between(before, after | {"3.weight": after["3.weight"] + 1.0})
    with pytest.raises(InputError, match=r"the update: '3.weight' and '1.weight' are one tensor"):
        invert(model, torn, image=SPEC, classes=CLASSES, known=known)


def test_buffers_that_the_weights_lack_are_named() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, CLASSES))
    before = {name: value.detach() for name, value in model.named_parameters()}
    update = Update.between(before, {name: value + 0.1 for name, value in before.items()})
    found, _ = update.at(_state(model))
    assert found.notes == (
        "the weights before training lack the buffer '1.running_mean' and 2 more: the network's own values are taken",
    )


def _state(model: nn.Module) -> ModelState:
    return subject(model, SPEC, CLASSES).state
