"""Kernels in the place of the library's: numbers, derivatives, which convolutions take them, what is kept."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from attack_core.base.programs.compiled import compile_program
from attack_core.base.programs.ways import no_compiler
from attack_core.fc.head import Prefix
from attack_core.gradients.calls import has_closed_form
from attack_core.gradients.convolutions import Geometry, fixed_weights
from attack_core.gradients.kernels import fixed
from attack_core.gradients.kernels.few_channels import FEW_CHANNELS_LIMITS, image_gradient
from attack_core.gradients.kernels.pooling import is_plain, means_of
from attack_core.gradients.kernels.replaced import replaced
from attack_core.gradients.kernels.winograd import (
    WINOGRAD_LIMITS,
    WinogradLimits,
    convolution,
    transformed,
    turned,
    weight_gradient,
)
from fl_core.base.device import precision_of
from fl_core.base.types import ModelState

ROUNDING = 3e-6
"""A few times what these transforms round in float32."""


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def near(found: Tensor, right: Tensor, share: float = ROUNDING) -> bool:
    """Whether two tensors are equal up to this share of the norm."""
    right = right.double()
    return found.shape == right.shape and float((found - right).norm()) <= share * float(right.norm())


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of our kernels that convolutions call, in order."""
    names: list[str] = []
    for name in ("convolution", "weight_gradient", "image_gradient"):
        kernel = globals()[name]

        def called(*given: object, name: str = name, kernel: Callable[..., Tensor] = kernel) -> Tensor:
            names.append(name)
            return kernel(*given)

        monkeypatch.setattr(f"attack_core.gradients.convolutions.{name}", called)
    return names


@pytest.fixture
def taken(noted: list[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The same, and every convolution takes Winograd's kernel that may."""
    limits = WinogradLimits(channels=1, tiles=1, tiles_of_new=1, work=1, waste=100.0)
    monkeypatch.setattr("attack_core.gradients.convolutions.WINOGRAD_LIMITS", limits)
    return noted


@pytest.mark.parametrize("padding", [(0, 0), (1, 1), (2, 1)])
@pytest.mark.parametrize("size", [(8, 8), (7, 10), (3, 5)])
@pytest.mark.parametrize("count", [1, 40])
def test_outputs_are_those_of_the_direct_sum(
    padding: tuple[int, int], size: tuple[int, int], count: int
) -> None:
    images, weight, bias = drawn(count, 5, *size), drawn(6, 5, 3, 3), drawn(6)
    found = convolution(images, transformed(weight), bias, *padding)
    right = functional.conv2d(images.double(), weight.double(), bias.double(), padding=padding)
    assert near(found, right)
    assert found.is_contiguous(memory_format=torch.channels_last)
    empty = convolution(images.to("meta"), transformed(weight).to("meta"), None, *padding)
    assert (empty.shape, empty.stride()) == (found.shape, found.stride())


@pytest.mark.parametrize("padding", [(0, 0), (1, 1), (2, 1)])
@pytest.mark.parametrize("size", [(8, 8), (7, 10), (3, 5)])
def test_gradients_are_those_of_the_direct_sum(padding: tuple[int, int], size: tuple[int, int]) -> None:
    images = drawn(70, 5, *size).double().requires_grad_(True)
    weight = drawn(6, 5, 3, 3).double().requires_grad_(True)
    outputs = functional.conv2d(images, weight, padding=padding)
    errors = drawn(*outputs.shape)
    of_images, of_weight = torch.autograd.grad(outputs, [images, weight], errors.double())
    kernel = transformed(turned(weight.detach().float()))
    assert near(convolution(errors, kernel, None, 2 - padding[0], 2 - padding[1]), of_images)
    found = weight_gradient(images.detach().float(), errors, *padding)
    assert near(found, of_weight)
    empty = weight_gradient(images.detach().float().to("meta"), errors.to("meta"), *padding)
    assert (empty.shape, empty.stride()) == (found.shape, found.stride())


@pytest.mark.parametrize(("padding", "dilation"), [((1, 1), (1, 1)), ((0, 2), (1, 1)), ((2, 2), (2, 1))])
@pytest.mark.parametrize("kernel", [(3, 3), (5, 2)])
def test_the_images_gradient_of_few_channels_is_the_librarys(
    kernel: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int]
) -> None:
    images = drawn(2, 3, 9, 8).requires_grad_(True)
    weight = drawn(17, 3, *kernel)
    outputs = functional.conv2d(images, weight, padding=padding, dilation=dilation)
    errors = drawn(*outputs.shape)
    (right,) = torch.autograd.grad(outputs, images, errors)
    found = image_gradient(errors, weight, images.shape, padding, dilation)
    assert near(found, right)
    empty = image_gradient(errors.to("meta"), weight.to("meta"), images.shape, padding, dilation)
    assert (empty.shape, empty.stride()) == (found.shape, found.stride())


def test_derivatives_of_both_orders_are_right(taken: list[str]) -> None:
    """A gradient's distance to another one, as matching has it, behind two convolutions."""
    layers = [nn.Conv2d(3, 20, 3, padding=1), nn.Conv2d(20, 6, 3)]
    images, weights = drawn(2, 3, 8, 8), [drawn(20, 3, 3, 3) / 5, drawn(6, 20, 3, 3) / 13]

    def slope(geometries: list[Callable[[Tensor, Tensor], Tensor]], kind: torch.dtype) -> Tensor:
        image = images.to(kind).requires_grad_(True)
        leaves = [weight.to(kind).requires_grad_(True) for weight in weights]
        seen = geometries[1](geometries[0](image, leaves[0]).sigmoid(), leaves[1])
        found = torch.autograd.grad(seen.square().sum(), leaves, create_graph=True)
        (back,) = torch.autograd.grad(sum(each.square().sum() for each in found), image)
        return back

    right = slope([lambda x, w: functional.conv2d(x, w, padding=1), functional.conv2d], torch.float64)
    assert near(slope([Geometry.of(layer).convolution for layer in layers], torch.float32), right, 1e-5)
    assert set(taken) == {"convolution", "weight_gradient"}


def test_which_convolutions_are_computed_so() -> None:
    def pays(
        count: int = 1,
        channels: tuple[int, int] = (64, 128),
        size: tuple[int, int] = (32, 32),
        *,
        new: bool = False,
        kind: torch.dtype = torch.float32,
        device: str = "cpu",
    ) -> bool:
        return WINOGRAD_LIMITS.pays(torch.empty(count, dtype=kind, device=device), channels, size, new=new)

    assert pays()
    assert pays(new=True)
    assert not pays(channels=(3, 64))
    assert not pays(channels=(512, 512), size=(4, 4))
    assert pays(16, channels=(512, 512), size=(4, 4))
    assert not pays(16, channels=(512, 512), size=(4, 4), new=True)
    assert not pays(channels=(64, 128), size=(16, 16))
    assert pays(channels=(128, 256), size=(16, 16))
    assert not pays(8, size=(14, 14))
    assert not pays(kind=torch.float64)
    assert not pays(device="meta")


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(64, 64, 3, stride=2, padding=1),
        nn.Conv2d(64, 64, 3, dilation=2, padding=1),
        nn.Conv2d(64, 64, 3, groups=2, padding=1),
        nn.Conv2d(64, 64, 5, padding=1),
        nn.Conv2d(64, 64, 3, padding=3),
    ],
)
def test_other_convolutions_are_the_librarys(layer: nn.Conv2d, taken: list[str]) -> None:
    geometry, images = Geometry.of(layer), drawn(1, 64, 16, 16)
    outputs = geometry.convolution(images, layer.weight, layer.bias)
    torch.testing.assert_close(outputs, layer(images))
    geometry.back(outputs.detach(), layer.weight, images.shape)
    geometry.weight_gradient(images, outputs.detach())
    assert taken == []


def test_rounded_products_are_the_librarys(taken: list[str]) -> None:
    layer, images = nn.Conv2d(64, 64, 3, padding=1), drawn(1, 64, 32, 32)
    with precision_of("bf16"), torch.no_grad():
        found = Geometry.of(layer).convolution(images, layer.weight, layer.bias)
        right = functional.conv2d(images, layer.weight, layer.bias, padding=1)
    assert torch.equal(found, right)
    assert taken == []


def test_rounded_gradients_of_the_first_layer_are_the_librarys(taken: list[str]) -> None:
    layer, images = nn.Conv2d(3, 64, 3, padding=1), drawn(1, 3, 32, 32).requires_grad_(True)
    with precision_of("bf16"):
        found, right = (
            torch.autograd.grad(outputs.sum(), images)[0]
            for outputs in (
                Geometry.of(layer).convolution(images, layer.weight, layer.bias),
                functional.conv2d(images, layer.weight, layer.bias, padding=1),
            )
        )
    assert torch.equal(found, right)
    assert taken == []


def test_transforms_of_fixed_weights_are_kept_while_these_are_there() -> None:
    weight = fixed_weights({"a": drawn(64, 64, 3, 3)})["a"]
    forwards, back = fixed.transforms_of(weight), fixed.transforms_of(weight, back=True)
    assert torch.equal(forwards, transformed(weight))
    assert torch.equal(back, transformed(turned(weight)))
    assert fixed.transforms_of(weight) is forwards
    assert fixed.transforms_of(weight, back=True) is back
    weight.mul_(2.0)
    assert torch.equal(fixed.transforms_of(weight), 2.0 * forwards)
    new = weight + 0.0
    assert not fixed.is_kept(new)
    assert fixed.transforms_of(new) is not fixed.transforms_of(new)
    gone = weakref.ref(fixed.transforms_of(weight))
    del weight
    gc.collect()
    assert gone() is None


class Deep(nn.Module):
    """Two convolutions, ReLUs in place, and a head; the second one is given each picture by itself."""

    def __init__(self, alone: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 64, 3, padding=1)
        self.relu, self.fc, self.alone = nn.ReLU(inplace=True), nn.Linear(64 * 1024, 2), alone

    def forward(self, images: Tensor) -> Tensor:
        seen = self.relu(self.first(images))
        seen = torch.stack([self.second(one) for one in seen]) if self.alone else self.second(seen)
        logits: Tensor = self.fc(self.relu(seen).flatten(1))
        return logits


@pytest.mark.parametrize("alone", [False, True])
def test_the_layers_in_front_of_the_head_take_them(alone: bool, noted: list[str]) -> None:
    model = Deep(alone)
    state = ModelState(parameters={name: value.detach() for name, value in model.named_parameters()})
    images = drawn(2, 3, 32, 32).requires_grad_(True)
    right = model.relu(model.second(model.relu(model.first(images)))).flatten(1)
    (slope,) = torch.autograd.grad(right.square().sum(), images)
    prefix = Prefix(model, state, "fc")
    found = prefix(images)
    (own,) = torch.autograd.grad(found.square().sum(), images)
    assert near(found.detach(), right.detach())
    # A unit within rounding of 0 may be on in one and off in the other.
    assert near(own, slope, 1e-4)
    assert noted == ["convolution"] * (4 if alone else 2) + ["image_gradient"]
    assert "_conv_forward" not in vars(model.first)


def test_no_compiler_is_loaded() -> None:
    """It takes more than a CPU-second of a process."""
    code = (
        "import sys, torch\n"
        "from torch import nn\n"
        "from attack_core.gradients.convolutions import Geometry\n"
        "layer, images = nn.Conv2d(64, 64, 3, padding=1), torch.rand(1, 64, 32, 32, requires_grad=True)\n"
        "Geometry.of(layer).convolution(images, layer.weight).sum().backward()\n"
        "sys.exit(any(name in sys.modules for name in ('sympy', 'torch._dynamo', 'torch._inductor')))\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(no_compiler() is not None, reason="there is no C++ compiler")
def test_a_compiled_program_calls_them() -> None:
    config = OrderedDict(a=nn.Conv2d(3, 64, 3, padding=1), b=nn.ReLU(), c=nn.Conv2d(64, 64, 3, padding=1))
    model = nn.Sequential(OrderedDict(**config, flatten=nn.Flatten(), fc=nn.Linear(64 * 1024, 2)))
    state = ModelState(parameters={name: value.detach() for name, value in model.named_parameters()})
    prefix = Prefix(model, state, "fc")

    class Program:
        key = "features"

        def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
            with torch.enable_grad():
                images = inputs[0].detach().requires_grad_(True)
                found = prefix(images).square().sum()
                return found.detach(), torch.autograd.grad(found, images)[0]

    program, images = Program(), drawn(2, 3, 32, 32)
    program(images)
    replay = compile_program(program, (images,))
    new = drawn(2, 3, 32, 32) * 0.5
    for found, right in zip(replay((new,)), program(new), strict=True):
        assert near(found, right)


def test_a_limit_may_be_set_apart() -> None:
    """Limits are values: changed ones leave those in force alone."""
    changed = replace(WINOGRAD_LIMITS, channels=1)
    assert changed.pays(torch.empty(64), (1, 4096), (4, 4), new=True)
    assert not WINOGRAD_LIMITS.pays(torch.empty(64), (1, 4096), (4, 4), new=True)
    assert FEW_CHANNELS_LIMITS.pays(torch.empty(1, 64, 1, 1), 3)
    assert not FEW_CHANNELS_LIMITS.pays(torch.empty(1, 64, 1, 1), 5)


@pytest.mark.parametrize("field", [2, (3, 2)])
@pytest.mark.parametrize("last", [False, True])
def test_means_of_fields_have_the_librarys_numbers_and_derivatives(
    field: int | tuple[int, int], last: bool
) -> None:
    layer, images = nn.AvgPool2d(field), drawn(2, 3, 12, 8)
    if last:
        images = images.contiguous(memory_format=torch.channels_last)
    assert is_plain(layer)
    found, right = [], []
    for kept, pooled in ((found, means_of(layer)), (right, layer)):
        leaf = images.clone().requires_grad_(True)
        means = pooled(leaf)
        (slope,) = torch.autograd.grad(means.pow(3).sum(), leaf, create_graph=True)
        (second,) = torch.autograd.grad(slope.square().sum(), leaf)
        kept += [means, slope, second]
    for one, other in zip(found, right, strict=True):
        torch.testing.assert_close(one, other)
    assert torch.autograd.gradgradcheck(means_of(layer), images.double().requires_grad_(True), fast_mode=True)


@pytest.mark.parametrize(
    "layer",
    [
        nn.AvgPool2d(2, stride=1),
        nn.AvgPool2d(2, padding=1),
        nn.AvgPool2d(2, ceil_mode=True),
        nn.AvgPool2d(2, divisor_override=3),
        nn.MaxPool2d(2),
    ],
)
def test_other_pooling_is_the_librarys(layer: nn.Module) -> None:
    assert not is_plain(layer)


def test_a_layer_that_was_given_a_function_of_its_own_keeps_it() -> None:
    pool, convolution_, linear = nn.AvgPool2d(2), nn.Conv2d(3, 4, 3), nn.Linear(2, 2)
    for layer in (pool, convolution_, linear):
        layer.forward = lambda images: images
    assert not is_plain(pool)
    assert not has_closed_form(convolution_)
    assert not has_closed_form(linear)


def test_images_that_fields_do_not_divide_are_pooled_as_by_the_library() -> None:
    images = drawn(2, 3, 7, 8)
    assert torch.equal(means_of(nn.AvgPool2d(2))(images), nn.AvgPool2d(2)(images))


def test_layers_compute_as_before_afterwards() -> None:
    layer = nn.AvgPool2d(2)
    with pytest.raises(ZeroDivisionError), replaced([layer], "forward", lambda _: lambda images: -images):
        assert float(layer(torch.ones(1))) == -1.0
        raise ZeroDivisionError
    assert vars(layer).keys() == vars(nn.AvgPool2d(2)).keys()
