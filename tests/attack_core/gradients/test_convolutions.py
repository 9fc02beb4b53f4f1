"""Convolutions as forms in three tensors have the library's numbers, and derivatives of every order."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from attack_core.gradients.comparison.matched import Matched
from attack_core.gradients.convolutions import ConvolutionLimits, Geometry
from attack_core.gradients.handles import DenseHandle, PatchHandle, gradient_handles
from attack_core.gradients.objectives import L2, Cosine
from fl_core.base.types import ModelState

LAYERS = [
    nn.Conv2d(2, 4, 3, padding=1),
    nn.Conv2d(2, 4, (3, 2), stride=(2, 1), padding=(0, 1), dilation=(1, 2)),
    nn.Conv2d(4, 4, 3, padding=1, groups=2),
]


def tensors(layer: nn.Conv2d) -> tuple[Tensor, Tensor, Tensor]:
    """Images, weight and errors at the outputs, in float64."""
    draws = torch.Generator().manual_seed(0)
    images = torch.randn((2, layer.in_channels, 6, 5), generator=draws, dtype=torch.float64)
    weight = torch.randn(layer.weight.shape, generator=draws, dtype=torch.float64)
    size = Geometry.of(layer).convolution(images, weight).shape
    return images, weight, torch.randn(size, generator=draws, dtype=torch.float64)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("most", [0, 1 << 21])
def test_the_numbers_are_the_librarys(layer: nn.Conv2d, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = ConvolutionLimits(most_patches=most)
    monkeypatch.setattr("attack_core.gradients.convolutions.CONVOLUTION_LIMITS", limits)
    geometry, (images, weight, error) = Geometry.of(layer), tensors(layer)
    leaves = [images.requires_grad_(True), weight.requires_grad_(True)]
    settings = (layer.stride, layer.padding, layer.dilation, layer.groups)
    expected = functional.conv2d(*leaves, None, *settings)  # type: ignore[arg-type]
    back, of_weight = torch.autograd.grad(expected, leaves, error)
    assert torch.equal(geometry.convolution(images, weight), expected)
    assert torch.allclose(geometry.back(error, weight, images.shape), back)
    assert torch.allclose(geometry.weight_gradient(images, error), of_weight)
    apart = geometry.weight_gradients(images[:, None], error[:, None])
    assert torch.allclose(apart.sum(0), of_weight)


@pytest.mark.parametrize("layer", LAYERS)
def test_first_and_second_derivatives_are_right(layer: nn.Conv2d) -> None:
    geometry, (images, weight, error) = Geometry.of(layer), tensors(layer)
    forms: list[tuple[Callable[..., Tensor], tuple[Tensor, Tensor]]] = [
        (geometry.convolution, (images, weight)),
        (lambda e, w: geometry.back(e, w, images.shape), (error, weight)),
        (geometry.weight_gradient, (images, error)),
    ]
    for form, inputs in forms:
        leaves = [each.clone().requires_grad_(True) for each in inputs]
        assert torch.autograd.gradcheck(form, leaves, fast_mode=True)
        assert torch.autograd.gradgradcheck(form, leaves, fast_mode=True)
    if layer.groups == 1:
        leaf = images.clone().requires_grad_(True)
        assert torch.autograd.gradcheck(lambda x: geometry.patches(x, error.shape), leaf, fast_mode=True)


class Deep(nn.Module):
    """A network whose second convolution makes one pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, stride=2), nn.Conv2d(8, 64, 3)
        self.last = nn.Linear(64, 2)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.last(self.second(self.first(images).relu()).relu().flatten(1))
        return logits


def test_the_gradient_of_a_convolution_of_few_pixels_is_not_formed() -> None:
    torch.manual_seed(0)
    model = Deep()
    state = ModelState(parameters={n: v.detach() for n, v in model.named_parameters()})
    images = torch.rand((3, 1, 3, 7, 7), generator=torch.Generator().manual_seed(1)).requires_grad_(True)

    def loss_of(logits: Tensor) -> Tensor:
        return logits.logsumexp(-1).mean(1)

    ghost, plain = (gradient_handles(model, state, images, loss_of, ghost=kind) for kind in (True, False))
    assert isinstance(ghost["second.weight"], PatchHandle)
    assert isinstance(plain["second.weight"], DenseHandle)
    assert torch.allclose(ghost["second.weight"].dense(), plain["second.weight"].dense(), atol=1e-7)
    mask = (torch.arange(64 * 8 * 9).view(64, 8, 3, 3) % 3 == 0).float()
    for masked in (None, mask):
        norms = [handles["second.weight"].squared_norm(masked) for handles in (ghost, plain)]
        assert torch.allclose(*norms, rtol=1e-5)
    target = {name: handle.dense()[0].detach() * 0.7 for name, handle in plain.items()}
    matched = Matched.of(target, dict.fromkeys(target, 1.0))
    for objective in (L2(), Cosine()):
        slopes = []
        for handles in (ghost, plain):
            loss = objective.loss(matched.terms(handles)).sum()
            slopes.append(torch.autograd.grad(loss, images, retain_graph=True)[0])
        assert torch.allclose(*slopes, rtol=1e-4, atol=1e-4 * float(slopes[1].abs().max()))


def test_a_target_of_low_rank_is_read_through_its_factors() -> None:
    draws = torch.Generator().manual_seed(0)
    error, entering = torch.randn((2, 600), generator=draws), torch.randn((2, 700), generator=draws)
    low, full = error.mT @ entering, torch.randn((600, 700), generator=draws)
    matched = Matched.of({"low": low, "full": full}, {"low": 1.0, "full": 1.0}).factored(2)
    assert matched.factors[0] is not None
    assert matched.factors[1] is None
    left, right = matched.factors[0]
    assert torch.allclose(left @ right, low, atol=1e-5 * float(low.abs().max()))
