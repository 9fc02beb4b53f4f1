"""Products in bfloat16: what is rounded, what is not, in derivatives of every order, and for how long."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from fl_core.base.device import precision_of

NEAR_ONE = 1 + 2**-10
"""One of float32's numbers, whose nearest in bfloat16 is 1."""

PRODUCTS: dict[str, tuple[tuple[tuple[int, ...], ...], Callable[..., Tensor]]] = {
    "mm": (((3, 8), (8, 5)), torch.mm),
    "addmm": (((5,), (3, 8), (8, 5)), lambda a, b, c: torch.addmm(a, b, c, alpha=0.5, beta=2.0)),
    "bmm": (((2, 3, 8), (2, 8, 5)), torch.bmm),
    "baddbmm": (
        ((1, 3, 5), (2, 3, 8), (2, 8, 5)),
        lambda a, b, c: torch.baddbmm(a, b, c, alpha=-2.0, beta=0.5),
    ),
    "mv": (((3, 8), (8,)), torch.mv),
    "addmv": (((3,), (3, 8), (8,)), lambda a, b, c: torch.addmv(a, b, c, alpha=4.0, beta=0.25)),
    "dot": (((8,), (8,)), torch.dot),
    "linear": (((2, 3, 8), (5, 8), (5,)), functional.linear),
    "einsum": (((2, 3, 8), (5, 8)), lambda a, b: torch.einsum("nij,kj->nik", a, b)),
    "conv2d": (((1, 4, 6, 6), (5, 4, 3, 3), (5,)), functional.conv2d),
    "conv_transpose2d": (((1, 4, 3, 3), (4, 5, 2, 2), (5,)), functional.conv_transpose2d),
    "conv2d in groups": (((1, 4, 6, 6), (6, 2, 3, 3)), lambda a, b: functional.conv2d(a, b, groups=2)),
}
"""Shapes of factors and of what is added, and what is computed of them."""


def rounded(value: Tensor) -> Tensor:
    return value.bfloat16().to(value.dtype)


def factors(*shapes: tuple[int, ...], bits: int = 23) -> list[Tensor]:
    """Numbers between 1 and 2 in magnitude, with so many bits behind the point.

    With 7 bits they are bfloat16's, and sums of up to 64 of their products are exact in float32.
    """
    noise = torch.Generator().manual_seed(0)
    drawn = []
    for shape in shapes:
        size = 1 + torch.randint(2**bits, shape, generator=noise) * 2.0**-bits
        drawn.append(size * (2 * torch.randint(2, shape, generator=noise) - 1))
    return drawn


class Watched(TorchDispatchMode):
    """Takes down which kinds of numbers convolutions and matrix products get."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, set[torch.dtype]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name.startswith("convolution") or name in PRODUCTS:
            self.seen.setdefault(name, set()).update(arg.dtype for arg in args if isinstance(arg, Tensor))
        return func(*args, **(kwargs or {}))


def rounds() -> bool:
    """Whether a product is rounded now."""
    return torch.full((1, 1), NEAR_ONE).mm(torch.ones(1, 1)).item() == 1.0


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("bits", [7, 23])
def test_a_product_is_the_rounded_product_of_rounded_factors(name: str, bits: int) -> None:
    shapes, product = PRODUCTS[name]
    given = factors(*shapes, bits=bits)
    whole = product(*(rounded(factor).double() for factor in given))
    with precision_of("bf16"):
        found = product(*given)
    assert found.dtype == torch.float32
    assert torch.equal(found, rounded(whole.float()))
    assert not torch.equal(found, product(*given)), "eight terms have more bits than bfloat16"


def test_products_of_numbers_that_bfloat16_has_are_exact_where_it_has_the_result() -> None:
    matrix, vector = torch.tensor([[1.0, 2.0], [0.0, 3.0]]), torch.tensor([5.0, 7.0])
    with precision_of("bf16"):
        assert (matrix @ vector).tolist() == [19.0, 21.0]
        assert (matrix @ matrix).tolist() == [[1.0, 8.0], [0.0, 9.0]]
        assert torch.dot(torch.ones(512), torch.ones(512)) == 512, (
            "sums do not stop at 256, as bfloat16's would"
        )


def test_first_and_second_derivatives_are_products_of_their_own() -> None:
    """Of |W x|^2 / 2: W'W x, and of that one's square, halved: W'W W'W x. All are small whole numbers."""
    weight = torch.tensor([[1.0, 2.0], [0.0, 1.0]])
    vector = torch.tensor([1.0, 3.0], requires_grad=True)
    with precision_of("bf16"):
        (first,) = torch.autograd.grad((weight @ vector).square().sum() / 2, vector, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum() / 2, vector)
    assert first.tolist() == [7.0, 17.0]
    assert second.tolist() == [41.0, 99.0]


def matched(model: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
    """A gradient of the weights, and the derivative of its square by image and weights."""
    images = images.clone().requires_grad_()
    parameters = tuple(model.parameters())
    loss = functional.cross_entropy(model(images), torch.tensor([1, 2]))
    gradient = torch.autograd.grad(loss, parameters, create_graph=True)
    square = sum((part.square().sum() for part in gradient), torch.zeros(()))
    return (*gradient, *torch.autograd.grad(square, (images, *parameters)))


@pytest.fixture
def small() -> nn.Module:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.Sigmoid(),
        nn.Conv2d(4, 4, 3, stride=2),
        nn.Flatten(),
        nn.Linear(36, 5),
    )
    for parameter, values in zip(
        model.parameters(), factors(*(p.shape for p in model.parameters())), strict=True
    ):
        parameter.data = 0.1 * values
    return model


@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
def test_no_product_of_a_matched_gradient_is_whole_and_all_are_near(
    small: nn.Module, form: torch.memory_format
) -> None:
    images = factors((2, 3, 8, 8))[0].contiguous(memory_format=form)
    small.to(memory_format=form)
    exact = matched(small, images)
    with Watched() as watched, precision_of("bf16"):
        found = matched(small, images)
    assert set(watched.seen) == {"convolution", "convolution_backward", "mm", "addmm"}
    assert set().union(*watched.seen.values()) == {torch.bfloat16}
    for one, other in zip(found, exact, strict=True):
        assert one.dtype == torch.float32
        assert one.stride() == other.stride()
        assert 0.0 < (one - other).norm() < 0.02 * other.norm()


def test_a_derivative_that_nobody_asks_for_stays_away(small: nn.Module) -> None:
    layer, images = small[0], factors((2, 3, 8, 8))[0]
    layer.requires_grad_(False)
    with precision_of("bf16"):
        loss = layer(images.requires_grad_()).square().sum()
        loss.backward()
    assert images.grad is not None
    assert images.grad.dtype == torch.float32
    assert layer.weight.grad is None


@pytest.mark.parametrize("kind", [torch.float64, torch.int64, torch.complex64])
def test_other_numbers_are_multiplied_as_ever(kind: torch.dtype) -> None:
    left, right = (factor.mul(1000).to(kind) for factor in factors((3, 8), (8, 5)))
    exact = left @ right
    with precision_of("bf16"):
        assert torch.equal(left @ right, exact)


def test_what_is_no_product_stays_whole() -> None:
    given = factors((3, 8), (3, 8))
    exact = given[0] * given[1] + given[0].sum()
    with precision_of("bf16"):
        assert torch.equal(given[0] * given[1] + given[0].sum(), exact)


def test_functions_that_come_whole_are_taken_apart() -> None:
    """In inference mode PyTorch hands on `linear` and `conv2d` and not the products that they consist of."""
    pictures, kernels, bias = factors((1, 4, 6, 6), (5, 4, 3, 3), (5,))
    with precision_of("bf16"):
        recorded = functional.conv2d(pictures, kernels, bias)
        with torch.inference_mode():
            assert torch.equal(functional.conv2d(pictures, kernels, bias), recorded)


def test_products_are_rounded_under_transforms_too() -> None:
    weight, vectors = factors((5, 8), (3, 8))
    with precision_of("bf16"):
        jacobians = torch.func.vmap(torch.func.jacrev(lambda vector: (weight @ vector).square()))(vectors)
        each = [2 * (weight @ vector)[:, None] * rounded(weight) for vector in vectors]
    whole = torch.func.vmap(torch.func.jacrev(lambda vector: (weight @ vector).square()))(vectors)
    assert torch.equal(jacobians, rounded(jacobians))
    assert not torch.equal(whole, rounded(whole))
    torch.testing.assert_close(jacobians, torch.stack(each), rtol=2**-7, atol=0.0)


def test_the_innermost_context_decides_and_afterwards_all_is_as_before() -> None:
    before = (torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision)  # type: ignore[attr-defined]
    assert not rounds()
    with precision_of("bf16"):
        assert rounds()
        with precision_of("float32"):
            assert not rounds()
            with precision_of("bf16"):
                assert rounds()
            assert not rounds()
        assert rounds()
        with precision_of("tf32"):
            assert not rounds(), "on the CPU"
        with precision_of("bf16"):
            assert rounds()
        assert rounds()
        assert torch.backends.cuda.matmul.fp32_precision == "ieee"  # type: ignore[attr-defined]
    assert not rounds()
    after = (torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision)  # type: ignore[attr-defined]
    assert after == before


def test_an_exception_ends_a_context_as_well() -> None:
    with precision_of("bf16"):
        with pytest.raises(ZeroDivisionError), precision_of("float32"):
            raise ZeroDivisionError
        assert rounds()
        with pytest.raises(RuntimeError, match="mat1 and mat2"):
            torch.ones(2, 3) @ torch.ones(2, 3)
        assert rounds()
    with pytest.raises(ZeroDivisionError), precision_of("bf16"):
        raise ZeroDivisionError
    assert not rounds()
