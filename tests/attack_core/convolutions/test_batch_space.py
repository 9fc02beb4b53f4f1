"""A batch's inputs of a convolution where BatchNorm's statistics are seen: exact, and nothing where more inputs fit."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

from attack_core.convolutions.batch_space import explains_mean, in_front, in_order, patch_pairs
from attack_core.convolutions.calls import ConvolutionCall, convolution_calls
from attack_core.fc.cone import OFF_BY_LITTLE, separate_rectified
from fl_core.base.rng import generator
from fl_core.base.shape import ImageShape
from fl_core.base.types import ModelState

SHAPE = ImageShape.square(12)
IMAGES = 3


def network(stride: int = 1) -> nn.Sequential:
    """Two convolutions behind a first one, each with BatchNorm in train mode and a ReLU: 6 by 6 positions and less."""
    torch.manual_seed(3)
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        first=nn.Conv2d(3, 16, 3, padding=1, bias=False), norm0=nn.BatchNorm2d(16), relu0=nn.ReLU()
    )
    layers |= OrderedDict(pool=nn.MaxPool2d(2))
    layers |= OrderedDict(second=nn.Conv2d(16, 128, 3, stride=stride, padding=1, bias=False))
    layers |= OrderedDict(norm1=nn.BatchNorm2d(128), relu1=nn.ReLU())
    layers |= OrderedDict(third=nn.Conv2d(128, 128, 3, padding=1, bias=False))
    layers |= OrderedDict(norm2=nn.BatchNorm2d(128), relu2=nn.ReLU(), flatten=nn.Flatten())
    body = nn.Sequential(layers).train()
    for name in ("norm0", "norm1", "norm2"):
        norm = body.get_submodule(name)
        norm.weight.data.uniform_(0.5, 2.0)  # type: ignore[operator,union-attr]
        norm.bias.data.uniform_(-0.3, 0.3)  # type: ignore[operator,union-attr]
    body.add_module("fc", nn.Linear(128 * (6 // stride) ** 2, 5))
    return body


class Seen:
    """A batch's gradient, each convolution's call, true inputs (B, I) and mean of outputs, by name."""

    def __init__(self, stride: int) -> None:
        self.model = network(stride)
        pictures = torch.rand((IMAGES, *SHAPE.size), generator=generator("pictures")) * 2 - 1
        self.inputs: dict[str, Tensor] = {}
        self.means: dict[str, Tensor] = {}
        for name in ("second", "third"):

            def note(_: nn.Module, given: tuple[Tensor, ...], made: Tensor, name: str = name) -> None:
                self.inputs[name] = given[0].detach().double().flatten(1)
                self.means[name] = made.detach().mean((0, 2, 3))

            self.model.get_submodule(name).register_forward_hook(note)
        loss = nn.functional.cross_entropy(self.model(pictures), torch.tensor([2, 0, 4]))
        names = [name for name, _ in self.model.named_parameters()]
        self.gradients = dict(
            zip(names, torch.autograd.grad(loss, list(self.model.parameters())), strict=True)
        )
        self.parameters = {name: value.detach() for name, value in self.model.named_parameters()}
        inputs, means = dict(self.inputs), dict(self.means)
        state = ModelState(parameters=self.parameters, buffers=dict(self.model.named_buffers()))
        calls = convolution_calls(self.model.eval(), state, SHAPE)
        self.calls: dict[str, ConvolutionCall] = {call.name: call for call in calls}
        self.inputs, self.means = inputs, means

    def pairs(self, name: str) -> object:
        weight = f"{name}.weight"
        return patch_pairs(
            self.calls[name], self.gradients[weight], self.parameters[weight], self.means[name], IMAGES
        )


@pytest.fixture(scope="module")
def plain() -> Seen:
    return Seen(stride=2)


def apart(found: Tensor, truth: Tensor) -> float:
    """The largest relative distance of an image's inputs from the nearest that was found."""
    return float((torch.cdist(truth, found.double()).min(1).values / truth.norm(dim=1)).max())


def test_inputs_come_apart_with_their_scale(plain: Seen) -> None:
    found = patch_pairs(
        plain.calls["third"],
        plain.gradients["third.weight"],
        plain.parameters["third.weight"],
        plain.means["third"],
        IMAGES,
    )
    assert found is not None
    separated = separate_rectified(
        found.inputs, found.heights, IMAGES, generator("draws"), limits=OFF_BY_LITTLE
    ).inputs
    assert apart(separated, plain.inputs["third"]) < 1e-3
    call, weight, mean = plain.calls["third"], plain.parameters["third.weight"], plain.means["third"]
    assert explains_mean(call, weight, mean, separated)
    assert not explains_mean(call, weight, mean, 1.1 * separated)


def test_a_layer_with_a_stride_has_more_inputs_and_the_next_layer_says_which(plain: Seen) -> None:
    assert plain.pairs("second") is None
    truth = plain.inputs["second"]
    outputs = nn.functional.conv2d(
        truth.view(IMAGES, *plain.calls["second"].inputs),
        plain.parameters["second.weight"].double(),
        stride=2,
        padding=1,
    )
    on = (plain.inputs["third"].view_as(outputs) > 0).double()
    rows, weight = plain.gradients["second.weight"], plain.parameters["second.weight"]
    found = in_front(plain.calls["second"], rows, weight, outputs * on, on, IMAGES)
    assert found is not None
    assert float(((found - truth).norm(dim=1) / truth.norm(dim=1)).max()) < 1e-3
    # Outputs that no input has: those of other images at half of the places.
    wrong = torch.where(
        torch.rand(outputs.shape, generator=generator("half")) < 0.5, outputs, outputs.roll(1, 0)
    )
    assert in_front(plain.calls["second"], rows, weight, wrong * on, on, IMAGES) is None


def test_noise_leaves_no_span(plain: Seen) -> None:
    rows = plain.gradients["third.weight"]
    noisy = rows + 1e-2 * rows.square().mean().sqrt() * torch.randn(rows.shape, generator=generator("noise"))
    call, weight = plain.calls["third"], plain.parameters["third.weight"]
    assert patch_pairs(call, noisy, weight, plain.means["third"], IMAGES) is None
    assert patch_pairs(call, rows, weight, plain.means["third"], IMAGES + 1) is None


def test_order_follows_what_is_handed_on(plain: Seen) -> None:
    truth = plain.inputs["third"]
    made = truth + 0.3 * torch.randn(truth.shape, generator=generator("made"), dtype=torch.float64)
    shuffled = truth[[2, 0, 1]]
    assert torch.equal(in_order(made, shuffled), truth)
