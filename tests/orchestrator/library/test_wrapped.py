"""Updates, gradients and checkpoints of wrapped networks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from fl_core.base.errors import InputError
from fl_core.base.types import ModelState
from orchestrator.library.files import load_gradient, load_update
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
