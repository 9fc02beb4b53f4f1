"""Names as wrappers write them are brought to the network's; names of another network stay to be refused."""

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
from orchestrator.library.names import named_as
from orchestrator.library.network import subject
from orchestrator.library.updates import Update
from tests.support.signals import CLASSES, SPEC, gradient, labels, network, pictures

NAMES = ("conv.weight", "head.0.bias")


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("module.{}", "DataParallel"),
        ("_orig_mod.{}", "torch.compile"),
        ("_module.{}", "Opacus"),
        ("_module.module.{}", "Opacus"),
        ("model.{}", "'model.' before every name"),
        ("module.net._orig_mod.{}", "'net.' before every name"),
    ],
)
def test_wrapped_names_are_the_networks_own_and_it_is_said(pattern: str, said: str) -> None:
    tensors = {pattern.format(name): name for name in NAMES}
    found, note = named_as(tensors, NAMES)
    assert found == {name: name for name in NAMES}
    assert said in note


def test_a_wrapped_network_takes_plain_names() -> None:
    wrapped = [f"_module.{name}" for name in NAMES]
    found, note = named_as({name: name for name in NAMES}, wrapped)
    assert found == dict(zip(wrapped, NAMES, strict=True))
    assert "Opacus" in note


def test_names_that_fit_are_left_alone_whatever_they_hold() -> None:
    tensors = {"module.weight": 1, "net.module.bias": 2}
    assert named_as(tensors, list(tensors)) == (tensors, "")


def test_what_a_lightning_module_holds_besides_the_network_is_left_out() -> None:
    tensors = {**{f"model.{name}": name for name in NAMES}, "loss.weight": "other"}
    found, note = named_as(tensors, NAMES)
    assert set(found) == set(NAMES)
    assert "left out: 'loss.weight'" in note


@pytest.mark.parametrize("held", [("conv.weight",), ("a", "b"), ("model.conv.weight", "other.head.0.bias")])
def test_names_of_another_network_stay_as_they_are(held: tuple[str, ...]) -> None:
    tensors = dict.fromkeys(held, 1)
    assert named_as(tensors, NAMES) == (tensors, "")


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
