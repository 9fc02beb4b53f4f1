"""Rank and noise from singular values: products counted, noise measured, and nothing claimed where nothing tells."""

from __future__ import annotations

import pytest
import torch

from fl_core.base.types import ModelState
from orchestrator.library.count import count_images
from orchestrator.library.spectrum import spectrum
from tests.support.signals import SPEC, gradient, labels, network, pictures


def _products(shape: tuple[int, int], count: int, seed: int) -> torch.Tensor:
    draws = torch.Generator().manual_seed(seed)
    left, right = torch.randn(shape[0], count, generator=draws), torch.randn(count, shape[1], generator=draws)
    return 0.01 * left @ right


@pytest.mark.parametrize("shape", [(96, 192), (200, 50), (128, 128)])
@pytest.mark.parametrize("count", [1, 3, 8])
@pytest.mark.parametrize("sigma", [0.0, 1e-4, 1e-3])
def test_products_are_counted_and_noise_is_measured(shape: tuple[int, int], count: int, sigma: float) -> None:
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(9))
    found = spectrum(_products(shape, count, 1) + sigma * noise)
    assert (found.rank, found.full) == (count, False)
    assert found.sigma == pytest.approx(sigma, rel=0.06)


def test_a_matrix_of_many_scales_is_no_noise() -> None:
    draws = torch.Generator().manual_seed(0)
    scales = torch.logspace(0, -3, 60)
    left, _ = torch.linalg.qr(torch.randn(60, 60, generator=draws))
    right, _ = torch.linalg.qr(torch.randn(100, 60, generator=draws))
    assert spectrum(left @ torch.diag(scales) @ right.mT).full


def test_noise_alone_has_no_image() -> None:
    found = spectrum(torch.randn(80, 160, generator=torch.Generator().manual_seed(4)))
    assert (found.rank, found.sigma) == (0, pytest.approx(1.0, rel=0.05))


@pytest.mark.parametrize("images", [1, 2, 5])
def test_images_are_counted_in_a_gradient(images: int) -> None:
    model = network()
    sent = gradient(model, pictures(images), labels(images))
    state = ModelState(parameters={name: value.detach() for name, value in model.named_parameters()})
    found = count_images(model, state, sent, SPEC.shape)
    assert (found.examples, found.certain, found.sigma) == (images, True, 0.0)
