"""Names as wrappers write them are brought to the network's; names of another network stay to be refused."""

from __future__ import annotations

import pytest

from fl_core.models.tensor_names import named_as

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
