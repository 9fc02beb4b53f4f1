"""Selective encryption: what is hidden, what is visible, what the sum is."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

from defenses.he.encryption import CKKS
from defenses.masking.masking import Masking
from defenses.secure.mean import SecureMean
from defenses.secure.protection import SumProtection
from defenses.secure.sensitivity import most_sensitive, sensitivity
from fl_core.base.errors import InputError
from fl_core.base.rng import generator
from fl_core.base.types import OpenedSum, Tensors
from fl_core.federation.client import loss_gradient
from fl_core.models.build import build_model, initial_state
from fl_core.models.config import ModelConfig
from tests.support.updates import as_updates, exact_mean, small_tensors


def opened(scheme: SumProtection, updates: Mapping[int, Tensors], masks: Tensors) -> OpenedSum:
    """A round in which the masks say what is protected."""
    return SecureMean(scheme=scheme, hidden=masks).open_sum(0, as_updates(updates))[1]


@pytest.mark.parametrize("scheme", [CKKS(), Masking()], ids=["ckks", "masking"])
@pytest.mark.parametrize("fraction", [0.0, 0.3, 1.0])
def test_the_mean_is_whole_and_says_what_was_hidden(scheme: CKKS | Masking, fraction: float) -> None:
    updates = small_tensors([0, 1, 2])
    masks = most_sensitive({"conv.weight": updates[0]["conv.weight"].abs()}, fraction)
    found = opened(scheme, updates, masks)
    hidden = int(masks["conv.weight"].sum())
    assert hidden == -(-int(fraction * 540) // 10)
    exact = exact_mean(updates, scheme.precision)
    for name, value in found.tensors.items():
        assert torch.equal(value, exact[name]), name
    assert torch.equal(found.hidden["conv.weight"], masks["conv.weight"])
    # What no mask names is protected whole: 8 numbers beside the 54 of the convolution.
    plain = 4 * (54 - hidden)
    assert found.bytes_up >= plain + 4 * (8 + hidden)


def test_fewer_encrypted_numbers_cost_fewer_bytes() -> None:
    updates = {client: {"w": torch.randn(20_000)} for client in (0, 1)}
    costs = []
    for fraction in (0.2, 1.0):
        masks = most_sensitive({"w": updates[0]["w"].abs()}, fraction)
        costs.append(opened(CKKS(), updates, masks).bytes_up)
    one = 131_240  # A ciphertext of 4,096 numbers: 4,000 are one, 20,000 are five.
    assert costs == pytest.approx([one + 4 * 16_000, 5 * one], rel=0.005)


def test_the_most_sensitive_are_hidden() -> None:
    masks = most_sensitive({"a": torch.tensor([0.1, 5.0, 0.2]), "b": torch.tensor([[3.0], [0.2]])}, 0.5)
    assert masks["a"].tolist() == [False, True, True]  # Half of five is three; the first of equals wins.
    assert masks["b"].tolist() == [[True], [False]]
    for fraction in (-0.1, 1.1, float("nan")):
        with pytest.raises(InputError, match=r"Fraction .* must be in \[0, 1\]"):
            most_sensitive({"a": torch.ones(2)}, fraction)


@pytest.mark.parametrize("kind", ["mlp", "resnet18"])
def test_sensitivity_is_the_mean_gradient_magnitude(kind: str) -> None:
    config = ModelConfig(kind=kind, image_size=32)  # type: ignore[arg-type]
    model, state = build_model(config), initial_state(config, generator("sensitivity"))
    images = torch.rand((3, 3, 32, 32), generator=generator("images")) * 2 - 1
    labels = torch.tensor([0, 1, 1])
    found = sensitivity(model, state, images, labels)
    assert found.keys() == state.parameters.keys()
    singles = [loss_gradient(model, state, (images[i : i + 1], labels[i : i + 1])) for i in range(3)]
    for name, value in found.items():
        torch.testing.assert_close(value, sum(single[name].abs() for single in singles) / 3)
    with pytest.raises(InputError, match="at least one"):
        sensitivity(model, state, images[:0], labels[:0])
