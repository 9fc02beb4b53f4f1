"""A convolution's input from its weight's gradient: exact where it is determined, and nothing where it is not."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

from attack_core.convolutions.calls import convolution_calls
from attack_core.convolutions.patch_space import ConvolutionInput, convolution_inputs
from fl_core.base.rng import generator
from fl_core.base.shape import ImageShape
from fl_core.base.types import ModelState
from fl_core.models.forward import layer_inputs

SHAPE = ImageShape.square(12)


def network(*, bias: bool = True, outputs: int = 48, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Two convolutions with a pooling between them: the second sees 6 by 6 positions."""
    torch.manual_seed(3)
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        first=nn.Conv2d(3, 8, 3, padding=1), pool=nn.MaxPool2d(2), relu=nn.ReLU()
    )
    layers["second"] = nn.Conv2d(8, outputs, kernel, stride=stride, padding=kernel // 2, bias=bias)
    if not bias:
        layers["norm"] = nn.BatchNorm2d(outputs)
    layers |= OrderedDict(again=nn.ReLU(), flatten=nn.Flatten())
    body = nn.Sequential(layers).eval()
    if not bias:
        norm = body.get_submodule("norm")
        norm.running_var.uniform_(0.5, 2.0)  # type: ignore[operator,union-attr]
        norm.weight.data.uniform_(0.5, 2.0)  # type: ignore[operator,union-attr]
    width = body(torch.zeros(1, *SHAPE.size)).shape[1]
    body.add_module("fc", nn.Linear(width, 5))
    return body


def read(
    model: nn.Module, change: float = 0.0, enough: float = 1e9
) -> tuple[list[ConvolutionInput], Tensor, ModelState]:
    """What is read from the gradient of a random picture, with a relative `change` of it; the picture; the state."""
    state = ModelState(
        parameters={name: value.detach() for name, value in model.named_parameters()},
        buffers=dict(model.named_buffers()),
    )
    picture = torch.rand((1, *SHAPE.size), generator=generator("picture")) * 2 - 1
    loss = nn.functional.cross_entropy(model(picture), torch.tensor([2]))
    found = torch.autograd.grad(loss, list(model.parameters()))
    random = generator("noise")
    gradients = {
        name: value + change * value.square().mean().sqrt() * torch.randn(value.shape, generator=random)
        for name, value in zip(state.parameters, found, strict=True)
    }
    return (
        convolution_inputs(convolution_calls(model, state, SHAPE), gradients, enough=enough),
        picture,
        state,
    )


@pytest.mark.parametrize("bias", [True, False])
def test_the_input_is_exact_with_its_scale_from_the_bias_or_the_batchnorm(bias: bool) -> None:
    model = network(bias=bias)
    (found,), picture, state = read(model)
    assert found.layer == "second", "the first one has more positions than output channels"
    (truth,) = layer_inputs(model, state, ("second",), picture)
    torch.testing.assert_close(found.values, truth, atol=1e-4, rtol=1e-3)
    assert found.known == int(truth.count_nonzero())


@pytest.mark.parametrize(
    "settings",
    [{"outputs": 32}, {"kernel": 1}, {"stride": 2, "kernel": 2}],
    ids=["fewer outputs than positions", "patches of one pixel", "patches side by side"],
)
def test_where_the_input_is_not_determined_none_is_read(settings: dict[str, int]) -> None:
    assert not read(network(**settings))[0]


def test_noise_fills_the_row_space_and_nothing_is_read() -> None:
    assert not read(network(), change=0.05)[0]


def test_a_layer_without_bias_or_batchnorm_has_no_scale() -> None:
    model = network()
    model.second.bias = None  # type: ignore[assignment,union-attr]
    assert not read(model)[0]


def test_reading_ends_where_enough_is_known() -> None:
    model = network()
    third = nn.Sequential(*model[:5], nn.Conv2d(48, 48, 3, padding=1), nn.ReLU(), *model[5:])
    assert [one.layer for one in read(third)[0]] == ["3", "5"]
    assert [one.layer for one in read(third, enough=10)[0]] == ["3"]
