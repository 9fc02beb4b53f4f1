"""The last convolution's input by decoding its ReLU: exact where it is determined, and nothing where it is not."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

from attack_core.convolutions.calls import convolution_calls
from attack_core.convolutions.masks import DecodedInput, decoded_input
from fl_core.base.rng import generator
from fl_core.base.shape import ImageShape
from fl_core.base.types import ModelState
from fl_core.models.forward import layer_inputs

SHAPE = ImageShape.square(12)
HIDDEN = 40


def network(
    *,
    outputs: int = 96,
    stride: int = 1,
    inplace: bool = False,
    pool: type[nn.Module] = nn.AvgPool2d,
    act: type[nn.Module] = nn.ReLU,
    kernel: tuple[int, int] = (3, 3),
    dilation: int = 1,
    bias: float | None = None,
    window: int | None = None,
) -> nn.Sequential:
    """Two convolutions with a pooling between them, so that the second sees 6 by 6 numbers of each channel."""
    torch.manual_seed(5)
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        first=nn.Conv2d(3, 8, 3, padding=1), relu=nn.ReLU(), pool=nn.AvgPool2d(2)
    )
    padding = dilation * (kernel[0] // 2), dilation * (kernel[1] // 2)
    layers["second"] = nn.Conv2d(8, outputs, kernel, stride=stride, padding=padding, dilation=dilation)
    layers["again"] = act(inplace=True) if inplace else act()  # type: ignore[call-arg]
    layers |= OrderedDict(smaller=pool(window or (3 if stride == 1 else 1)), flatten=nn.Flatten())  # type: ignore[call-arg]
    body = nn.Sequential(layers)
    width = body(torch.zeros(1, *SHAPE.size)).shape[1]
    layers["fc"] = nn.Linear(width, HIDDEN)
    layers |= OrderedDict(relu3=nn.ReLU(), last=nn.Linear(HIDDEN, 4))
    if bias is not None:
        nn.init.constant_(layers["second"].bias, bias)  # type: ignore[arg-type]
    return nn.Sequential(layers)


def decoded(
    model: nn.Module, count: int = 1, change: float = 0.0, scale: float = 1.0, wrong: int = 0
) -> tuple[DecodedInput | None, Tensor, list[Tensor]]:
    """What is decoded of random pictures from grey, the truth, and the gradients by the parameters.

    The loss is multiplied by `scale`, and the gradients of so many channels are `wrong`.
    """
    parameters = {name: value.detach() for name, value in model.named_parameters()}
    state = ModelState(parameters=parameters, buffers={})
    pictures = torch.rand((count, *SHAPE.size), generator=generator("picture")) * 2 - 1
    features = layer_inputs(model, state, ("fc",), pictures)[0].detach().requires_grad_(True)
    rest = [model.get_submodule(name) for name in ("fc", "relu3", "last")]
    labels = torch.arange(count) % 4
    loss = nn.functional.cross_entropy(nn.Sequential(*rest)(features), labels)
    (errors,) = torch.autograd.grad(loss, features)
    whole = nn.functional.cross_entropy(model(pictures), labels)
    gradient = torch.autograd.grad(whole, model.get_parameter("second.weight"))[0]
    noise = torch.randn(gradient.shape, generator=generator("noise"))
    gradient = scale * (gradient + change * gradient.square().mean().sqrt() * noise)
    gradient[:wrong] *= 1.1
    call = convolution_calls(model, state, SHAPE)[-1]
    start = 0.01 * torch.randn(pictures.shape, generator=generator("start"))
    (truth,) = layer_inputs(model, state, ("second",), pictures)
    behind = "fc", scale * errors
    return decoded_input(call, model, state, gradient, behind, start), truth.detach(), [gradient]


@pytest.mark.parametrize(
    "settings",
    [{}, {"inplace": True}, {"stride": 2, "outputs": 128}],
    ids=["a ReLU", "a ReLU that works in place", "a stride"],
)
def test_the_input_is_exact_and_says_how_exact(settings: dict[str, int]) -> None:
    found, truth, _ = decoded(network(**settings))  # type: ignore[arg-type]
    assert found is not None
    assert found.layer == "second"
    wrong = float((found.values - truth).norm() / truth.norm())
    assert wrong < 1e-4
    assert wrong <= found.error < 1e-2


def test_images_of_a_batch_are_decoded_together() -> None:
    found, truth, _ = decoded(network(outputs=160), count=2)
    assert found is not None
    torch.testing.assert_close(found.values, truth, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    "settings",
    [{"outputs": 24}, {"pool": nn.MaxPool2d}, {"act": nn.Sigmoid}, {"act": nn.LeakyReLU}],
    ids=["few equations", "maxima behind it", "no ReLU", "another ReLU"],
)
def test_elsewhere_nothing_is_decoded(settings: dict[str, type[nn.Module]]) -> None:
    assert decoded(network(**settings))[0] is None  # type: ignore[arg-type]


def test_a_gradient_with_noise_that_nobody_tells_of_gives_nothing() -> None:
    assert decoded(network(), change=1e-2)[0] is None


@pytest.mark.parametrize("change", [1e-5, 1e-4])
def test_what_rounding_leaves_of_a_gradient_costs_no_more_than_it_says(change: float) -> None:
    found, truth, _ = decoded(network(), change=change)
    assert found is not None
    wrong = float((found.values - truth).norm() / truth.norm())
    assert wrong < 30.0 * change
    assert wrong <= found.error


def test_channels_that_no_bits_explain_count_for_nothing() -> None:
    """Of 96 channels a few may be wrong, as where an output is 0 but for rounding; many may not."""
    found, truth, _ = decoded(network(), wrong=6)
    assert found is not None
    wrong = float((found.values - truth).norm() / truth.norm())
    assert wrong < 1e-4
    assert wrong <= found.error
    assert decoded(network(), wrong=20)[0] is None


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e-14, 1e20, 1e30])
def test_a_loss_of_any_size_will_do(scale: float) -> None:
    found, truth, _ = decoded(network(), scale=scale)
    assert found is not None
    wrong = float((found.values - truth).norm() / truth.norm())
    assert wrong <= found.error < 1e-4


def test_a_gradient_that_is_0_tells_nothing() -> None:
    assert decoded(network(), scale=0.0)[0] is None


def test_a_picture_for_which_no_unit_is_on_is_no_start() -> None:
    assert decoded(network(bias=-0.2))[0] is None


@pytest.mark.parametrize(
    "settings",
    [{"kernel": (1, 3)}, {"kernel": (3, 1)}, {"dilation": 3}],
    ids=["rows apart", "columns apart", "dilation"],
)
def test_rows_or_columns_that_may_change_places_are_not_decoded(settings: dict[str, int]) -> None:
    """A pooling gives neighbours the same errors; where their patches share nothing, nothing tells them apart."""
    assert decoded(network(outputs=288, **settings))[0] is None  # type: ignore[arg-type]
    found, truth, _ = decoded(network(outputs=288, window=1, **settings))  # type: ignore[arg-type]
    assert found is not None
    assert float((found.values - truth).norm() / truth.norm()) <= found.error


def test_inputs_that_nothing_sees_are_not_decoded() -> None:
    """The pooling leaves the last row and column of outputs out, and with them two of inputs."""
    assert decoded(network(outputs=160, stride=2, window=2))[0] is None


def test_draws_and_weights_are_left_as_they_were() -> None:
    before = torch.get_rng_state()
    model = network()
    torch.set_rng_state(before)
    decoded(model)
    assert torch.equal(torch.get_rng_state(), before)
    assert not model.get_submodule("second")._forward_hooks
