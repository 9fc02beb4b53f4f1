"""Every kind of network: handles, and the slopes of objectives on them, are plain autograd's in float64."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from attack_core.gradients.comparison.matched import Matched
from attack_core.gradients.handles import DenseHandle, GradientHandle, gradient_handles
from attack_core.gradients.objectives import L2, Both, Cosine, Objective, Signs, Similarity
from attack_core.gradients.operations import twice_differentiable
from fl_core.base.types import ModelState
from fl_core.models.bottleneck import Bottleneck, with_noise
from fl_core.models.forward import predict
from tests.support.networks import CLASSES, LARGE, NETWORKS, SMALL, built, some, state_of

OBJECTIVES: tuple[Objective, ...] = (
    L2(),
    Cosine(),
    Similarity(),
    Both(l2_weight=0.5, cos_weight=2.0),
    Signs(),
)
COUNTS = [(1, 1), (1, 2), (3, 1), (3, 2)]


def labels_of(candidates: int, images: int) -> Tensor:
    return torch.arange(candidates * images).view(candidates, images) % CLASSES


def loss_of(labels: Tensor) -> Callable[[Tensor], Tensor]:
    def loss(logits: Tensor) -> Tensor:
        each = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
        return each.view(labels.shape).mean(1)

    return loss


def plain_gradients(
    model: nn.Module, state: ModelState, images: Tensor, labels: Tensor
) -> list[dict[str, Tensor]]:
    """Each candidate's gradients (1, ...) by plain autograd, differentiable with respect to its images."""
    found = []
    for candidate, classes in zip(images, labels, strict=True):
        leaves = {name: value.clone().requires_grad_(True) for name, value in state.parameters.items()}
        moving = ModelState(parameters=leaves, buffers=state.with_own_buffers().buffers)
        with twice_differentiable(model):
            loss = functional.cross_entropy(predict(model, moving, candidate), classes)
        gradients = torch.autograd.grad(
            loss, list(leaves.values()), create_graph=True, materialize_grads=True
        )
        found.append({name: value[None] for name, value in zip(leaves, gradients, strict=True)})
    return found


@dataclasses.dataclass(frozen=True)
class Close:
    """Equality to a `tolerance` relative to the largest number, or to `scale`."""

    tolerance: float

    def __call__(self, found: Tensor, expected: Tensor, scale: Tensor | None = None) -> None:
        largest = float((expected.abs().max() if scale is None else scale).detach())
        torch.testing.assert_close(
            found, expected, rtol=self.tolerance, atol=self.tolerance * largest + 1e-15
        )


def check_handles(
    found: dict[str, GradientHandle], plain: dict[str, Tensor], target: dict[str, Tensor], close: Close
) -> None:
    assert list(found) == list(plain)
    for name, gradient in plain.items():
        handle, expected, wanted = found[name], DenseHandle(gradient), target[name]
        square = wanted.square().sum()
        mask = (some(tuple(wanted.shape), name) > 0).to(wanted)
        close(handle.dense(), gradient)
        close(handle.squared_norm(), expected.squared_norm())
        close(handle.squared_norm(mask), expected.squared_norm(mask), expected.squared_norm().max())
        size = (expected.squared_norm() * square).sqrt().max()
        close(handle.dot(wanted), expected.dot(wanted), size)
        both = expected.squared_norm().max() + square
        close(handle.squared_distance(wanted, square), expected.squared_distance(wanted, square), both)


def check_network(
    model: nn.Module, side: int, counts: list[tuple[int, int]], tolerance: float = 1e-9
) -> None:
    close = Close(tolerance)
    state = state_of(model)
    for candidates, batch in counts:
        images, labels = some((candidates, batch, 3, side, side), batch), labels_of(candidates, batch)
        truth = some((1, 2, 3, side, side), "truth")
        (target,) = plain_gradients(model, state, truth, labels_of(1, 2))
        wanted = {name: value[0].detach() for name, value in target.items()}
        matched = Matched.of(wanted, dict.fromkeys(wanted, 1.0))
        matched = dataclasses.replace(matched, weights=matched.weights.double())
        mine, theirs = (images.clone().requires_grad_(True) for _ in range(2))
        before = {name: value.clone() for name, value in state.buffers.items()}
        found = gradient_handles(model, state, mine, loss_of(labels))
        each = plain_gradients(model, state, theirs, labels)
        plain = {name: torch.cat([gradients[name] for gradients in each]) for name in wanted}
        check_handles(found, plain, wanted, close)
        expected = {name: DenseHandle(value) for name, value in plain.items()}
        for objective in OBJECTIVES:
            loss, true = (objective.loss(matched.terms(handles)) for handles in (found, expected))
            close(loss, true)
            slopes = [
                torch.autograd.grad(value.sum(), leaf, retain_graph=True)[0]
                for value, leaf in ((loss, mine), (true, theirs))
            ]
            close(*slopes)
        torch.testing.assert_close(state.buffers, before, rtol=0, atol=0)
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules()), (
            "no hook is left"
        )


@pytest.mark.parametrize("name", NETWORKS)
def test_small_networks(name: str) -> None:
    check_network(*built(name), COUNTS)


@pytest.mark.parametrize("layer", [nn.Tanh(), nn.LayerNorm(8)], ids=["together", "one by one"])
def test_a_row_for_each_image_goes_with_its_image(layer: nn.Module) -> None:
    layers = (nn.Flatten(), nn.Linear(3 * SMALL**2, 8), layer, Bottleneck(8, 3), nn.Linear(8, CLASSES))
    model = nn.Sequential(*layers).double()
    state, labels = state_of(model), labels_of(3, 2)
    images, noise = some((3, 2, 3, SMALL, SMALL), "images"), some((6, 3), "noise")
    moving = images.clone().requires_grad_(True)
    found = gradient_handles(model, state, moving, loss_of(labels), rows={"3.noise": noise})
    for i in range(3):
        drawn = with_noise(state, "3", noise[2 * i : 2 * i + 2])
        (plain,) = plain_gradients(model, drawn, images[i : i + 1], labels[i : i + 1])
        for name, gradient in plain.items():
            torch.testing.assert_close(found[name].dense()[i], gradient[0])


@pytest.mark.parametrize("name", ["batch_norm_1d", "volumes", "skips"])
def test_batch_norm_in_train_mode(name: str) -> None:
    check_network(*built(name, train=True), [(1, 2), (3, 2)])


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_torchvisions_networks(name: str) -> None:
    # Squeeze and excitation leaves gradients that are small differences of large numbers, each with its rounding.
    tolerance = 1e-7 if name == "mobilenet_v3_small" else 1e-9
    check_network(*built(name), [(2, 2)], tolerance)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_squares_of_numbers_are_differentiable_as_often_as_needed(layout: torch.memory_format) -> None:
    numbers = some((3, 2, 3, 2, 2), "numbers")
    numbers[1] = 0.0
    target = some((2, 3, 2, 2), "target").contiguous(memory_format=layout)
    square = target.square().sum()
    own, off = DenseHandle(numbers).squared_norm(), DenseHandle(numbers).squared_distance(target, square)
    torch.testing.assert_close(own, numbers.square().flatten(1).sum(1))
    torch.testing.assert_close(off, (numbers - target).square().flatten(1).sum(1))
    for of in (
        lambda moving: DenseHandle(moving).squared_norm(),
        lambda moving: DenseHandle(moving).squared_distance(target, square),
    ):
        assert torch.autograd.gradcheck(of, numbers.clone().requires_grad_(True))
        assert torch.autograd.gradgradcheck(of, numbers.clone().requires_grad_(True))
    moving = torch.zeros_like(numbers).requires_grad_(True)
    (slope,) = torch.autograd.grad(DenseHandle(moving).squared_norm().sum(), moving)
    assert not slope.any(), "no gradient is as near to nothing as it gets"
