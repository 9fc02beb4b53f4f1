"""Patches from the errors of tokens: exactly, by a prior where equations are missing, and through noise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attack_core.tokens.embedding import PatchEmbedding
from attack_core.tokens.equations import TokenEquations

SIDE, PATCH = 16, 4
TOKENS, NUMBERS = 16, 48


def layout() -> PatchEmbedding:
    places = torch.arange(3 * SIDE * SIDE).view(3, 4, PATCH, 4, PATCH).permute(1, 3, 0, 2, 4)
    scale, offset = torch.linspace(0.5, 2.0, NUMBERS), torch.linspace(-1.0, 1.0, NUMBERS)
    return PatchEmbedding(
        layer="embedding",
        positions="positions",
        first=1,
        pixels=places.reshape(TOKENS, NUMBERS),
        scale=scale,
        offset=offset,
    )


def smooth() -> Tensor:
    """A picture (3, 16, 16) whose neighbours differ by little."""
    at = torch.linspace(0.0, 3.0, SIDE)
    return torch.stack([0.6 * torch.sin(at[:, None] + phase) * torch.cos(at) for phase in (0.0, 0.7, 1.4)])


def equations(width: int, seed: int = 0, noise: float = 0.0, *, told: bool = True) -> TokenEquations:
    draw = torch.Generator().manual_seed(seed)
    found, errors = layout(), torch.randn(TOKENS, width, generator=draw)
    # A few directions are strong and most are weak, as in networks.
    errors = torch.logspace(1.0, -1.0, TOKENS)[:, None] * errors
    weight = errors.mT @ (found.patches_of(smooth()) * found.scale + found.offset)
    sigma = noise if told else 0.0
    return TokenEquations(
        embedding=found,
        errors=errors + noise * torch.randn(errors.shape, generator=draw),
        weight=weight + noise * torch.randn(weight.shape, generator=draw),
        error_sigma=sigma,
        weight_sigma=sigma,
    )


def missed(picture: Tensor) -> float:
    return float((picture - smooth()).square().mean().sqrt())


def test_as_many_equations_as_tokens_give_every_pixel() -> None:
    solved = equations(width=24).solve(torch.zeros(3, SIDE, SIDE))
    assert solved.determined == TOKENS
    assert solved.residual < 1e-6
    assert missed(solved.picture) < 1e-5


def test_what_equations_leave_open_is_filled_by_smoothness_and_by_the_mean_image() -> None:
    nothing = torch.zeros(3, SIDE, SIDE)
    short = equations(width=13)
    solved = short.solve(nothing)
    assert solved.determined == 13
    assert solved.residual < 1e-4
    # The least squares answer of smallest norm leaves out what the three missing directions hold.
    found = short.embedding
    target = (short.weight - short.errors.sum(0)[:, None] * found.offset) / found.scale
    least = found.picture_of(torch.linalg.pinv(short.errors.mT) @ target, nothing)
    assert missed(solved.picture) < 0.7 * missed(least)
    assert missed(short.solve(smooth()).picture) < 1e-5


@pytest.mark.parametrize("told", [True, False])
def test_noise_is_weighed_whether_or_not_anybody_tells_its_size(told: bool) -> None:
    nothing = torch.zeros(3, SIDE, SIDE)
    noisy = equations(width=64, noise=0.5, told=told)
    plain = torch.linalg.lstsq(
        noisy.errors.mT.double(),
        (noisy.weight - noisy.errors.sum(0)[:, None] * noisy.embedding.offset).double(),
    ).solution.float()
    by_least_squares = noisy.embedding.picture_of(plain / noisy.embedding.scale, nothing)
    solved = noisy.solve(nothing)
    assert missed(solved.picture) < 0.8 * missed(by_least_squares)
    assert missed(solved.picture) < 0.7 * missed(nothing)


def test_noise_that_drowns_everything_leaves_the_mean_image() -> None:
    mean = smooth() + 0.1
    solved = equations(width=24, noise=1e4).solve(mean)
    assert solved.determined == 0
    assert float((solved.picture - mean).square().mean().sqrt()) < 0.1


@pytest.mark.parametrize("noise", [0.0, 1e-4, 1e-3])
def test_the_certificate_bounds_what_is_missed(noise: float) -> None:
    solved = equations(width=40, noise=noise, told=False).solve(torch.zeros(3, SIDE, SIDE))
    certificate = solved.certificate
    assert certificate.rank == certificate.unknowns == 3 * SIDE * SIDE
    # Pixels in [0, 1] are half as far apart.
    assert 10.0 ** (-certificate.psnr / 20.0) >= missed(solved.picture) / 2.0


def test_missing_equations_leave_the_picture_open_and_spare_ones_are_needed() -> None:
    nothing = torch.zeros(3, SIDE, SIDE)
    short = equations(width=13).solve(nothing).certificate
    assert short.verdict == "open"
    assert short.rank == 13 * NUMBERS
    assert equations(width=40).solve(nothing).certificate.verdict == "exact"
    unchecked = equations(width=TOKENS).solve(nothing).certificate
    assert unchecked.verdict == "determined", "as many equations as patches are always satisfied"
