"""Layer handles and objectives against plain autograd, in float64, and against closed forms."""

from __future__ import annotations

import dataclasses
import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from attack_core.gradients.comparison.layers import choose, layer_weights
from attack_core.gradients.comparison.matched import Matched
from attack_core.gradients.handles import DenseHandle, GhostHandle, autograd_pays, gradient_handles
from attack_core.gradients.objectives import L2, Both, Cosine, Signs, Similarity
from attack_core.priors.penalties import total_variation
from fl_core.base.errors import InputError
from fl_core.base.rng import generator
from fl_core.base.types import ModelState
from fl_core.federation.client import loss_gradient
from fl_core.models.build import build_model, initial_state
from fl_core.models.config import ModelConfig
from tests.support.federations import MODELS

OBJECTIVES = (L2(), Cosine(), Similarity(), Both(l2_weight=0.5, cos_weight=2.0), Signs())


def doubled(state: ModelState) -> ModelState:
    def double(value: Tensor) -> Tensor:
        return value.double() if value.is_floating_point() else value

    return ModelState(
        parameters={name: double(value) for name, value in state.parameters.items()},
        buffers={name: double(value) for name, value in state.buffers.items()},
    )


def setting(config: ModelConfig) -> tuple[ModelState, Tensor, Tensor]:
    """Float64 state, candidates of two images (three, of the large network two), labels."""
    state = doubled(initial_state(config, generator("weights")))
    size, candidates = config.image_size, 2 if config.kind == "resnet18" else 3
    images = torch.randn((candidates, 2, 3, size, size), generator=generator("images"), dtype=torch.float64)
    return state, images, torch.tensor([0, 1])


def named(kind: str, message: str) -> str:
    return f"{kind}: {message}"


def loss_of(labels: Tensor):  # type: ignore[no-untyped-def]
    def loss(logits: Tensor) -> Tensor:
        flat = functional.cross_entropy(logits.flatten(0, 1), labels.repeat(len(logits)), reduction="none")
        return flat.view(logits.shape[:2]).mean(1)

    return loss


@pytest.mark.parametrize("ghost", [True, False])
@pytest.mark.parametrize("config", MODELS, ids=lambda c: f"{c.kind}-{c.batch_norm}")
def test_handles_hold_each_candidates_own_gradient(config: ModelConfig, ghost: bool) -> None:
    state, images, labels = setting(config)
    model = build_model(config)
    handles = gradient_handles(model, state, images.requires_grad_(True), loss_of(labels), ghost=ghost)
    assert list(handles) == list(state.parameters)
    for candidate in range(len(images)):
        plain = loss_gradient(model, state, (images[candidate].detach(), labels))
        for name, gradient in plain.items():
            torch.testing.assert_close(handles[name].dense()[candidate], gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "config",
    [pytest.param(each, marks=pytest.mark.slow if each.kind == "resnet18" else ()) for each in MODELS],
    ids=[f"{each.kind}-{each.batch_norm}" for each in MODELS],
)
def test_ghost_form_equals_plain_form_in_value_and_slope(config: ModelConfig) -> None:
    state, images, labels = setting(config)
    model = build_model(config)
    size = config.image_size
    truth = torch.randn((2, 3, size, size), generator=generator("truth"), dtype=torch.float64)
    target = loss_gradient(model, state, (truth, labels))
    weights = layer_weights(target, "early")
    matched = Matched.of(target, weights)
    matched = dataclasses.replace(matched, weights=matched.weights.double())

    def found(ghost: bool) -> dict[str, tuple[Tensor, Tensor]]:
        """Value and slope of every objective, all of one pass through the network."""
        leaf = images.clone().requires_grad_(True)
        terms = matched.terms(gradient_handles(model, state, leaf, loss_of(labels), ghost=ghost))
        pairs = {}
        for objective in OBJECTIVES:
            loss = objective.loss(terms)
            pairs[objective.kind] = loss.detach(), torch.autograd.grad(loss.sum(), leaf, retain_graph=True)[0]
        return pairs

    plain = found(False)
    for kind, (value, slope) in found(True).items():
        torch.testing.assert_close(value, plain[kind][0], rtol=1e-9, atol=1e-12, msg=partial(named, kind))
        torch.testing.assert_close(slope, plain[kind][1], rtol=1e-7, atol=1e-11, msg=partial(named, kind))


@pytest.mark.parametrize("kind", ["lenet", "cnn64"])
def test_autograds_convolutions_equal_closed_forms_in_value_and_slope(kind: str) -> None:
    config = next(each for each in MODELS if each.kind == kind)
    state, images, labels = setting(config)
    model, leaf = build_model(config), images.clone().requires_grad_(True)
    found = []
    for linear_only in (True, False):
        handles = gradient_handles(model, state, leaf, loss_of(labels), linear_only=linear_only)
        norms = torch.stack([handle.squared_norm() for handle in handles.values()]).sum(0)
        found.append((norms.detach(), *torch.autograd.grad(norms.sum(), leaf)))
        assert any(isinstance(handle, GhostHandle) for handle in handles.values()), (
            "linear layers stay factors"
        )
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-11)


def test_small_networks_of_one_candidate_leave_their_convolutions_to_autograd() -> None:
    small, large = (
        initial_state(ModelConfig(kind=kind, image_size=size), generator("m"))
        for kind, size in (("lenet", 32), ("cnn64", 16))
    )
    assert autograd_pays(small, 1)
    assert not autograd_pays(small, 2)
    assert not autograd_pays(large, 1)


@given(
    batch=st.integers(1, 4), outputs=st.integers(1, 5), inputs=st.integers(1, 6), seed=st.integers(0, 1000)
)
@settings(max_examples=50, deadline=None)
def test_ghost_inner_products_are_exact(batch: int, outputs: int, inputs: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    error = torch.randn((2, batch, outputs), generator=random, dtype=torch.float64)
    entering = torch.randn((2, batch, inputs), generator=random, dtype=torch.float64)
    target = torch.randn((outputs, inputs), generator=random, dtype=torch.float64)
    ghost, dense = GhostHandle(error, entering), DenseHandle(GhostHandle(error, entering).dense())
    torch.testing.assert_close(ghost.dot(target), dense.dot(target))
    square = target.square().sum()
    torch.testing.assert_close(ghost.squared_distance(target, square), dense.squared_distance(target, square))
    torch.testing.assert_close(ghost.squared_norm(), dense.squared_norm())


def closed(objective: L2, gradient: list[float], target: list[float]) -> float:
    """One candidate whose two parameters have one and two numbers."""
    handles = {"a": DenseHandle(torch.tensor([gradient[:1]])), "b": DenseHandle(torch.tensor([gradient[1:]]))}
    targets = {"a": torch.tensor(target[:1]), "b": torch.tensor(target[1:])}
    return float(objective.loss(Matched.of(targets, {"a": 0.5, "b": 1.5}).terms(handles)))


def test_objectives_by_hand() -> None:
    gradient, target = [1.0, 0.0, 2.0], [3.0, 0.0, 1.0]
    assert closed(L2(), gradient, target) == pytest.approx(0.5 * 4 + 1.5 * 1)
    dot, one, two = 0.5 * 3 + 1.5 * 2, 0.5 * 1 + 1.5 * 4, 0.5 * 9 + 1.5 * 1
    assert closed(Cosine(), gradient, target) == pytest.approx(1 - dot / math.sqrt(one * two))
    assert closed(Similarity(), gradient, target) == pytest.approx(0.0, abs=1e-6)
    assert closed(Both(l2_weight=2.0, cos_weight=9.0), gradient, target) == pytest.approx(2 * 3.5)
    assert closed(Similarity(), [1.0, 2.0, 0.0], [1.0, 0.0, 2.0]) == pytest.approx((0.5 * 0 + 1.5 * 1) / 2)


@given(scale=st.floats(0.01, 100), seed=st.integers(0, 50))
@settings(max_examples=40, deadline=None)
def test_cosines_ignore_the_signals_scale(scale: float, seed: int) -> None:
    values = torch.randn(6, generator=torch.Generator().manual_seed(seed)).tolist()
    for objective in (Cosine(), Similarity()):
        plain = closed(objective, values[:3], values[3:])
        scaled = closed(objective, values[:3], [scale * value for value in values[3:]])
        assert scaled == pytest.approx(plain, abs=1e-4)


def test_layer_weights_follow_their_formulas_with_mean_one() -> None:
    tensors = {
        "c1": torch.ones(2, 2, 1, 1),
        "b1": torch.ones(4),
        "c2": torch.ones(3, 1, 1, 1) * 2,
        "f": torch.ones(2, 2) * 3,
    }
    raw = {
        "uniform": [1, 1, 1, 1],
        "auto": [1 / 2, 1 / 2, 1 / math.sqrt(12), 1 / 6],
        "early": [math.exp(-0.08 * i) for i in range(4)],
        "early_linear": [1, 2 / 3, 1 / 3, 0.01],
        "early_strong": [math.exp(-0.20 * i) for i in range(4)],
        "early_conv": [3, 1.2, 1.5, 0.5],
        (1.0, 0.0, 2.0, 1.0): [1, 0, 2, 1],
    }
    for mode, expected in raw.items():
        weights = list(layer_weights(tensors, mode).values())  # type: ignore[arg-type]
        mean = sum(expected) / 4
        assert weights == pytest.approx([value / mean for value in expected]), mode
    with pytest.raises(InputError, match="must be 4, one for each parameter"):
        layer_weights(tensors, (1.0, 2.0))


def test_parameters_are_chosen_by_index_and_by_name() -> None:
    tensors = dict.fromkeys(("conv1.weight", "conv1.bias", "fc.weight"), torch.ones(1))
    assert choose(tensors, indices=None, names=None) == list(tensors)
    assert choose(tensors, indices=(2, 0), names=None) == ["conv1.weight", "fc.weight"]
    assert choose(tensors, indices=None, names=("conv",)) == ["conv1.weight", "conv1.bias"]
    assert choose(tensors, indices=(0, 2), names=("fc",)) == ["fc.weight"]
    with pytest.raises(InputError, match=r"index 3 is out of range: .* 0 to 2"):
        choose(tensors, indices=(3,), names=None)
    with pytest.raises(InputError, match="Unknown layer name 'conw'"):
        choose(tensors, indices=None, names=("conw",))
    with pytest.raises(InputError, match="leaves no parameter"):
        choose(tensors, indices=(0,), names=("fc",))


def test_total_variation_by_hand() -> None:
    image = torch.tensor([[0.0, 1.0], [3.0, 1.0]]).expand(2, 1, 3, 2, 2)
    assert total_variation(image).tolist() == [3 * (3 + 0 + 1 + 2)] * 2


def test_squares_of_large_targets_keep_their_digits() -> None:
    """Distances are differences of squares: what these are off by is what a loss near 0 is off by."""
    target = torch.randn((512, 16384), generator=generator("target"))
    matched = Matched.of({"weight": target}, {"weight": 1.0})
    assert float(matched.squares[0]) == pytest.approx(float(target.double().square().sum()), rel=1e-6)
