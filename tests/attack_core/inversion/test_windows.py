"""The preconditioner of windows: by hand, symmetric and positive, and of use."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from attack_core.inversion.descent.cosine import CosinePreconditioner
from attack_core.inversion.descent.gains import measured_gain
from attack_core.inversion.descent.windows import WINDOW_LIMITS, WindowLimits, WindowPreconditioner
from fl_core.base.rng import generator


def images(*size: int, seed: int = 0) -> Tensor:
    return torch.rand((1, *size), generator=generator("images", seed)) * 2 - 1


def blur(image: Tensor) -> Tensor:
    """Features of a network that does the same everywhere: weighted sums in 16 channels, averaged by twos, (1, I)."""
    weights = torch.randn((16, image.shape[1], 3, 3), generator=generator("weights"))
    seen = functional.conv2d(image, weights, padding=1)
    return functional.avg_pool2d(seen, 2, ceil_mode=True).flatten(1)


def measured(image: Tensor, limits: WindowLimits = WINDOW_LIMITS) -> WindowPreconditioner:
    return WindowPreconditioner.measured(blur, image, 1000, generator=generator("probes"), limits=limits)


def whole(found: WindowPreconditioner, size: tuple[int, ...]) -> Tensor:
    """The preconditioner as a matrix (n, n), column by column."""
    each = torch.eye(torch.Size(size).numel()).view(-1, 1, *size)
    return torch.stack([found.turned(image).flatten() for image in each], dim=1)


@pytest.mark.parametrize("size", [(3, 8, 8), (1, 9, 7), (3, 7, 11)])
def test_it_is_symmetric_and_positive_for_images_of_any_size(size: tuple[int, ...]) -> None:
    matrix = whole(measured(images(*size)), size)
    torch.testing.assert_close(matrix, matrix.mT, rtol=1e-4, atol=1e-4 * float(matrix.max()))
    assert float(torch.linalg.eigvalsh(matrix.double())[0]) > 0


@pytest.mark.parametrize("channels", [1, 3])
def test_the_matrix_is_applied_in_all_windows_that_meet_the_image(channels: int) -> None:
    """Those too that reach over its border, where there is nothing."""
    numbers = channels * WINDOW_LIMITS.side**2
    root = torch.randn((numbers, numbers), generator=generator("root"))
    matrix, image = root @ root.mT, images(channels, 8, 6)
    over, side = WINDOW_LIMITS.side - WINDOW_LIMITS.stride, WINDOW_LIMITS.side
    padded = functional.pad(image, (over,) * 4)
    expected = torch.zeros_like(padded)
    for top in range(0, padded.shape[2] - side + 1, WINDOW_LIMITS.stride):
        for left in range(0, padded.shape[3] - side + 1, WINDOW_LIMITS.stride):
            window = (slice(None), slice(None), slice(top, top + side), slice(left, left + side))
            expected[window] += (matrix @ padded[window].flatten()).view(1, channels, side, side)
    found = WindowPreconditioner.of(matrix).turned(image)
    torch.testing.assert_close(found, expected[..., over:-over, over:-over], rtol=1e-4, atol=1e-2)


def test_the_system_is_better_conditioned_with_it() -> None:
    """Of a network that does the same everywhere the steep directions and the flat ones come closer."""
    size = (3, 16, 16)
    image = images(*size)
    jacobian = torch.autograd.functional.jacobian(lambda x: blur(x.view(1, *size))[0], image.flatten())
    square = (jacobian.mT @ jacobian).double()
    limits = WindowLimits(probes=64)
    matrix = whole(measured(image, limits), size).double()
    turned = torch.linalg.eigvals(matrix @ square).real
    before = torch.linalg.eigvalsh(square)
    assert float(turned.max() / turned.min()) < 0.2 * float(before[-1] / before[0])


def test_the_same_draws_give_the_same() -> None:
    image = images(3, 8, 8)
    assert torch.equal(measured(image).kernel, measured(image).kernel)


MANY = [(3, 64, 64), (3, 28, 28), (1, 18, 18)]
FEW = [(3, 24, 24), (1, 16, 16), (1, 4, 40)]


@pytest.mark.parametrize("size", MANY + FEW)
def test_images_that_hold_few_windows_are_measured_by_frequencies(size: tuple[int, ...]) -> None:
    """A window of 6 x 6 pixels every two: 12 x 12 in 28 x 28 pixels for 108 numbers, 7 x 7 in 18 x 18 for 36."""
    found = measured_gain(blur, images(*size), 10, generator=generator("probes"))
    assert isinstance(found, WindowPreconditioner if size in MANY else CosinePreconditioner)


@pytest.mark.parametrize("gain", [0.0, float("inf"), float("nan")])
def test_where_the_gain_cannot_be_measured_gradients_keep_their_direction_inside(gain: float) -> None:
    image = images(3, 8, 8)
    found = WindowPreconditioner.measured(
        lambda x: x.flatten(1) * gain, image, 10, generator=generator("probes")
    )
    middle = found.turned(image)[..., 2:-2, 2:-2]
    torch.testing.assert_close(middle / middle.norm(), image[..., 2:-2, 2:-2] / image[..., 2:-2, 2:-2].norm())


def test_few_evaluations_have_a_gentle_one() -> None:
    """What a descent of k evaluations does not reach is not lifted: each of nine windows by (k / 4)^2 at most."""
    size = (3, 16, 16)
    for evaluations in (8, 40):
        found = WindowPreconditioner.measured(blur, images(*size), evaluations, generator=generator("probes"))
        lifted = torch.linalg.eigvalsh(whole(found, size).double())
        assert float(lifted[-1]) <= 9.01 * (evaluations / 4) ** 2
        assert float(lifted[-1]) > 3.0
