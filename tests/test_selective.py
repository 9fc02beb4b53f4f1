"""Selective encryption: what is hidden, what is visible, what the sum is."""

from __future__ import annotations

import pytest
import torch

from defenses.encryption import CKKS
from defenses.masking import Masking
from defenses.selective import most_sensitive, selective_sum, sensitivity
from fl_core.client import loss_gradient
from fl_core.errors import InputError
from fl_core.models import ModelConfig, build_model, initial_state
from fl_core.rng import generator
from tests.updates import exact_sum, small_updates


@pytest.mark.parametrize("scheme", [CKKS(), Masking()], ids=["ckks", "masking"])
@pytest.mark.parametrize("fraction", [0.0, 0.3, 1.0])
def test_the_sum_is_whole_and_the_rest_is_visible(scheme: CKKS | Masking, fraction: float) -> None:
    updates = small_updates([0, 1, 2])
    masks = most_sensitive({"conv.weight": updates[0]["conv.weight"].abs()}, fraction)
    summed, visible = selective_sum(scheme.setup([0, 1, 2]), updates, masks)
    hidden = int(masks["conv.weight"].sum())
    assert hidden == -(-int(fraction * 540) // 10)
    exact = exact_sum(updates, scheme.precision)
    plain = {name: sum(update[name].double() for update in updates.values()) for name in exact}
    for name, value in summed.tensors.items():
        assert value.shape == exact[name].shape
        torch.testing.assert_close(value, plain[name].float(), rtol=1e-6, atol=3 * 0.5 / scheme.precision)  # type: ignore[union-attr]
        # What no mask names is hidden whole.
        expected = ~masks[name] if name in masks else torch.zeros(value.shape, dtype=torch.bool)
        assert torch.equal(visible.mask[name], expected)
        for client, update in updates.items():
            seen = visible.values[client][name]
            assert torch.equal(seen[expected], update[name][expected])
            assert not seen[~expected].any()
    assert summed.tensors["conv.weight"][masks["conv.weight"]].tolist() == (
        exact["conv.weight"][masks["conv.weight"]].tolist()
    )
    assert visible.fraction == pytest.approx((54 - hidden) / 62)
    assert summed.cost.values == 62


def test_fewer_encrypted_numbers_cost_fewer_bytes() -> None:
    updates = {client: {"w": torch.randn(20_000)} for client in (0, 1)}
    session = CKKS().setup([0, 1])
    costs = []
    for fraction in (0.2, 1.0):
        masks = most_sensitive({"w": updates[0]["w"].abs()}, fraction)
        costs.append(selective_sum(session, updates, masks)[0].cost.bytes_up)
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


@pytest.mark.parametrize(
    ("mask", "named"),
    [
        ({"nonsense": torch.ones(3)}, "'nonsense'.*no such tensor"),
        ({"fc.bias": torch.ones(8)}, r"'fc\.bias'.*\(7,\)"),
    ],
)
def test_masks_that_do_not_fit_are_named(mask: dict[str, torch.Tensor], named: str) -> None:
    with pytest.raises(InputError, match=named):
        selective_sum(CKKS().setup([0]), small_updates([0]), mask)
