"""What no attack can follow is said in a sentence that names it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from attack_core.gradients.handles import gradient_handles
from attack_core.gradients.operations import twice_differentiable
from attack_core.gradients.refusals import second_derivatives
from attack_core.gradients.tracing import Known
from fl_core.base.errors import InputError
from fl_core.base.types import ModelState
from tests.support.networks import CLASSES, SMALL, Lambda, some, state_of


def line(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * SMALL**2, 6), *layers, nn.Linear(6, CLASSES)).double()


def squared_gradient(model: nn.Module, state: ModelState | None = None) -> tuple[Tensor, Tensor]:
    images = some((2, 1, 3, SMALL, SMALL), 0).requires_grad_(True)
    handles = gradient_handles(
        model, state or state_of(model), images, lambda logits: logits.logsumexp(-1).mean(1)
    )
    total = torch.stack([handle.squared_norm() for handle in handles.values()]).sum()
    return total, images


def slope(model: nn.Module) -> Tensor:
    total, images = squared_gradient(model)
    with second_derivatives():
        return torch.autograd.grad(total, images)[0]


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 2.0 * ctx.saved_tensors[0] * gradient


def test_an_operation_without_a_second_derivative_is_named() -> None:
    def margins(x: Tensor) -> Tensor:
        first = torch.zeros(len(x), dtype=torch.int64)
        return x * functional.multi_margin_loss(x, first, reduction="none")[:, None]

    with pytest.raises(InputError, match="'multi_margin_loss_backward' of the network has no second derivat"):
        slope(line(Lambda(margins)))
    with pytest.raises(InputError, match="Function 'Once' of the network is marked once_differentiable"):
        slope(line(Lambda(Once.apply)))


@pytest.mark.parametrize(
    "function", [functional.hardsigmoid, lambda x: functional.hardsigmoid(x * 1.0, inplace=True)]
)
def test_a_hard_sigmoid_is_the_librarys(function: Callable[[Tensor], Tensor]) -> None:
    values = torch.linspace(-4.0, 4.0, 41, dtype=torch.float64)[:, None].expand(-1, 6)
    mine, plain = (values.clone().requires_grad_(True) for _ in range(2))
    with twice_differentiable(line(Lambda(function))):
        found = function(mine)
    expected = function(plain)
    torch.testing.assert_close(found, expected)
    slopes = [torch.autograd.grad(x.sum(), leaf)[0] for x, leaf in ((found, mine), (expected, plain))]
    inside = (values.abs() - 3.0).abs() > 1e-6
    torch.testing.assert_close(slopes[0][inside], slopes[1][inside])
    assert float(slope(line(Lambda(function))).abs().max()) > 0
    assert float(slope(line(nn.Hardsigmoid(inplace=True))).abs().max()) > 0


def test_a_layer_that_draws_is_named() -> None:
    with pytest.raises(InputError, match=r"layer '2' of type Dropout: it draws .*model.batch_norm: eval"):
        squared_gradient(line(nn.Dropout(0.5)).train())
    squared_gradient(line(nn.Dropout(0.5)).eval())
    noise = Lambda(lambda x: x + torch.randn_like(x))
    with pytest.raises(InputError, match="layer '2' of type Lambda: it draws random numbers"):
        squared_gradient(line(noise))


class Counting(nn.Module):
    """A layer of a user's own that notes how many images it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        return x.tanh()


def test_what_is_known_of_a_network_is_not_asked_again() -> None:
    """Two candidates of one image: the first pass compares each one alone with itself among both."""
    counting, known = Counting(), Known()
    model = line(counting)
    images = some((2, 1, 3, SMALL, SMALL), 0).requires_grad_(True)
    passes, norms = [], []
    for candidates in (2, 2, 1, 1, 2):
        counting.seen.clear()
        handles = gradient_handles(
            model,
            state_of(model),
            images[:candidates],
            lambda logits: logits.logsumexp(-1).mean(1),
            known=known,
        )
        passes.append(list(counting.seen))
        norms.append(handles["1.weight"].squared_norm())
    assert passes == [[1, 1, 2], [2], [1], [1], [2]]
    torch.testing.assert_close(torch.stack([norms[0], norms[1], norms[4]]), norms[0].expand(3, 2))
    torch.testing.assert_close(norms[2], norms[0][:1])


@pytest.mark.parametrize("brightest", [0, 1])
def test_images_that_one_of_them_scales_go_alone(brightest: int) -> None:
    """By itself the brightest image gives what it gives among both; the other one tells."""
    model, known, images = line(Lambda(lambda x: x / x.max())), Known(), some((2, 1, 3, SMALL, SMALL), 0)
    images[brightest] *= 3.0
    for each in (images, images.flip(0)):
        moving = each.requires_grad_(True)
        found, *alone = (
            gradient_handles(
                model, state_of(model), part, lambda logits: logits.logsumexp(-1).mean(1), known=own
            )
            for part, own in ((moving, known), (moving[:1], None), (moving[1:], None))
        )
        expected = torch.cat([handles["1.weight"].dense() for handles in alone])
        torch.testing.assert_close(found["1.weight"].dense(), expected)


def test_a_layer_that_draws_is_told_at_the_first_pass_of_each_shape() -> None:
    model, known, images = line(nn.Dropout(0.5)), Known(), some((2, 1, 3, SMALL, SMALL), 0)
    loss = lambda logits: logits.logsumexp(-1).mean(1)  # noqa: E731
    moving = images.requires_grad_(True)
    gradient_handles(model.eval(), state_of(model), moving[:1], loss, known=known)
    with pytest.raises(InputError, match="it draws random numbers"):
        gradient_handles(model.train(), state_of(model), moving, loss, known=known)


def test_logits_are_wanted() -> None:
    with pytest.raises(InputError, match=r"for 2 images this one gave shape \(2, 1, 3\)"):
        squared_gradient(nn.Sequential(line(), nn.Unflatten(1, (1, CLASSES))))
    with pytest.raises(InputError, match="for 1 images this one gave type tuple"):
        squared_gradient(nn.Sequential(line(), Lambda(lambda x: (x, x))))  # type: ignore[arg-type, return-value]


def test_integers_have_no_gradient() -> None:
    model = line(Lambda(lambda x: x))
    model.register_parameter("count", nn.Parameter(torch.tensor([3]), requires_grad=False))
    with pytest.raises(InputError, match=r"parameter 'count': its numbers are torch\.int64"):
        squared_gradient(model)


def test_a_parameter_that_is_left_out_of_the_state_is_a_constant() -> None:
    model = line(nn.Tanh())
    whole = state_of(model)
    frozen = ModelState(
        parameters={name: value for name, value in whole.parameters.items() if name != "1.weight"},
        buffers={"1.weight": whole.parameters["1.weight"]},
    )
    images = some((2, 1, 3, SMALL, SMALL), 0).requires_grad_(True)
    found, expected = (
        gradient_handles(model, state, images, lambda logits: logits.logsumexp(-1).mean(1))
        for state in (frozen, whole)
    )
    assert set(found) == set(expected) - {"1.weight"}
    for name, handle in found.items():
        torch.testing.assert_close(handle.dense(), expected[name].dense())


def test_what_the_loss_does_not_reach_has_a_gradient_of_zeros() -> None:
    model = line(nn.Tanh())
    model.register_parameter("idle", nn.Parameter(torch.ones(2, 3).double()))
    images = some((2, 1, 3, SMALL, SMALL), 0).requires_grad_(True)
    handles = gradient_handles(model, state_of(model), images, lambda logits: logits.logsumexp(-1).mean(1))
    assert torch.equal(handles["idle"].dense(), torch.zeros(2, 2, 3).double())
