"""The engine of feature inversion: its prior by hand, its coordinates, and problems whose solution is known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from attack_core.base.types import AttackFailed
from attack_core.inversion.continuation import Continuation
from attack_core.inversion.descent.cosine import CosinePreconditioner
from attack_core.inversion.descent.given import Mismatch
from attack_core.inversion.descent.limits import SETTLING, ContinuationLimits
from attack_core.priors.colour_tv import colour_axes, colour_variation
from fl_core.base.errors import InputError
from fl_core.base.rng import generator

SIZE = 6
PIXELS = 3 * SIZE * SIZE


def random_images(count: int = 1, size: int = SIZE, *, seed: int = 0) -> Tensor:
    return torch.rand((count, 3, size, size), generator=generator("images", seed)) * 2 - 1


@pytest.mark.parametrize("end", [1e-8, 1e-9, 1e-10])
def test_a_tiny_known_error_changes_nothing(end: float) -> None:
    """The prior leads no longer, and evaluations are spread no thinner, than where the data are taken for exact."""
    target = torch.rand((1, 3, 8, 8), generator=generator("tiny", 0))
    found = [
        Continuation(evaluations=30, prior_end=end).minimise(
            lambda images: (images - target).square().mean(), torch.zeros_like(target), error=error
        )
        for error in (0.0, 1e-20)
    ]
    torch.testing.assert_close(found[0], found[1], rtol=0.0, atol=0.0)


def test_opponent_axes_are_orthonormal_and_begin_with_brightness() -> None:
    axes = colour_axes(torch.zeros(3, 1, 1))
    torch.testing.assert_close(axes @ axes.mT, torch.eye(3))
    grey = axes @ torch.ones(3)
    torch.testing.assert_close(grey, torch.tensor([3**0.5, 0.0, 0.0]), atol=1e-6, rtol=0)


def test_variation_of_a_grey_image_has_no_part_from_colour() -> None:
    grey = random_images(2)[:, :1].expand(-1, 3, -1, -1)
    plain, dear = (colour_variation(grey, chroma=chroma) for chroma in (0.0, 100.0))
    torch.testing.assert_close(dear, plain, rtol=1e-4, atol=0)
    coloured = random_images(2)
    free, dear = (colour_variation(coloured, chroma=chroma) for chroma in (0.0, 100.0))
    assert bool((dear > 10 * free).all())


def test_variation_by_hand() -> None:
    """Two by two pixels: the left column is grey and steps down by 0.6, the upper right one is reddish."""
    chroma, edge = 3.0, 0.1
    pixels = {(0, 0): (0.5, 0.5, 0.5), (0, 1): (0.9, 0.5, 0.1), (1, 0): (-0.1,) * 3, (1, 1): (-0.1,) * 3}
    image = torch.zeros(1, 3, 2, 2)
    for (row, column), colour in pixels.items():
        image[0, :, row, column] = torch.tensor(colour)

    def cost(a: tuple[float, ...], b: tuple[float, ...]) -> float:
        red, green, blue = (x - y for x, y in zip(a, b, strict=True))
        axes = (
            (red + green + blue) / math.sqrt(3),
            chroma * (red - blue) / math.sqrt(2),
            chroma * (red - 2 * green + blue) / math.sqrt(6),
        )
        return sum(math.sqrt(d * d + edge * edge) - edge for d in axes)

    pairs = [((0, 0), (1, 0)), ((0, 1), (1, 1)), ((0, 0), (0, 1)), ((1, 0), (1, 1))]
    expected = sum(cost(pixels[a], pixels[b]) for a, b in pairs)
    both = torch.cat([image, torch.full_like(image, 0.3)])
    assert colour_variation(both, chroma=chroma, edge=edge).tolist() == pytest.approx([expected, 0.0])
    assert colour_variation(both).tolist() == pytest.approx([expected, 0.0]), "the same are the defaults"


@pytest.mark.parametrize("channels", [1, 3])
def test_the_slope_of_the_variation_is_its_derivative(channels: int) -> None:
    images = torch.randn((2, channels, 4, 5), generator=generator("slope"), dtype=torch.float64) / 5
    images = images.requires_grad_(True)

    def variation(each: Tensor) -> Tensor:
        return colour_variation(each.float(), chroma=2.0, edge=0.3).double()

    (slope,) = torch.autograd.grad(variation(images) @ torch.tensor([1.0, -2.0]).double(), images)
    step = torch.randn(images.shape, generator=generator("step"), dtype=torch.float64)
    with torch.no_grad():
        ahead, behind = (variation(images + sign * 4e-3 * step) for sign in (1, -1))
    assert float((slope * step)[0].sum()) == pytest.approx(float((ahead - behind)[0]) / 8e-3, rel=2e-3)
    assert float((slope * step)[1].sum()) == pytest.approx(-2.0 * float((ahead - behind)[1]) / 8e-3, rel=2e-3)


def test_the_variation_has_second_derivatives_and_can_be_mapped() -> None:
    images = torch.randn((2, 3, 6, 6), generator=generator("images"))
    step = torch.randn(images.shape, generator=generator("step"))

    def by_the_library(each: Tensor) -> Tensor:
        turned = torch.einsum("kc,nchw->nkhw", colour_axes(each) * torch.tensor([[1.0], [3.0], [3.0]]), each)
        squares = [turned.diff(dim=axis).square() for axis in (-1, -2)]
        return torch.stack([((square + 0.01).sqrt() - 0.1).sum() for square in squares]).sum()

    _, ours = torch.autograd.functional.hvp(lambda each: colour_variation(each).sum(), images, step)
    _, theirs = torch.autograd.functional.hvp(by_the_library, images, step)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    mapped = torch.vmap(lambda image: colour_variation(image[None])[0])(images)
    torch.testing.assert_close(mapped, colour_variation(images))


def least_squares(condition: float = 30.0) -> tuple[Mismatch, Tensor, Tensor]:
    """A linear mismatch with one solution: the mismatch, the matrix and the solution."""
    random = generator("matrix")
    left, _ = torch.linalg.qr(torch.randn((PIXELS, PIXELS), generator=random))
    matrix = left * torch.logspace(0, -math.log10(condition), PIXELS)
    solution = random_images(seed=1)
    data = matrix @ solution.flatten()

    def mismatch(images: Tensor) -> Tensor:
        return (images.flatten(1) @ matrix.mT - data).square().sum() / data.square().sum()

    return mismatch, matrix, solution


@pytest.mark.parametrize("measured", [False, True])
def test_descent_reaches_the_solution_of_linear_equations(measured: bool) -> None:
    mismatch, matrix, solution = least_squares()
    seen: list[float] = []

    def measure(images: Tensor, _: int) -> CosinePreconditioner:
        return CosinePreconditioner.measured(lambda x: x.flatten(1) @ matrix.mT, images, generator("probes"))

    found = Continuation(evaluations=240, prior_end=1e-12).minimise(
        mismatch,
        torch.zeros_like(solution),
        measure=measure if measured else None,
        report=seen.append,
    )
    assert float((found - solution).abs().max()) < 1e-3
    assert float(mismatch(found)) < 1e-8
    assert seen[0] == pytest.approx(1.0), "the first evaluation is at the start"
    assert min(seen) < 1e-8


@pytest.mark.parametrize("measured", [False, True])
def test_pairs_of_earlier_stages_save_evaluations(measured: bool) -> None:
    """The data's curvature is the same in every stage, in whichever coordinates."""
    mismatch, matrix, solution = least_squares(1e3)

    def measure(images: Tensor, _: int) -> CosinePreconditioner:
        return CosinePreconditioner.measured(lambda x: x.flatten(1) @ matrix.mT, images, generator("probes"))

    taken, anew = (
        Continuation(evaluations=120, stages=6, prior_end=1e-12).minimise(
            mismatch,
            torch.zeros_like(solution),
            measure=measure if measured else None,
            limits=ContinuationLimits(carried=carried),
        )
        for carried in (40, 0)
    )
    assert float(mismatch(taken)) < 0.5 * float(mismatch(anew))


def test_a_stage_that_has_settled_ends_and_the_answer_stays() -> None:
    """Linear equations of a good condition are solved long before their evaluations are over."""
    mismatch, _, solution = least_squares(3.0)
    seen: dict[bool, list[float]] = {False: [], True: []}
    found = [
        Continuation(evaluations=240, prior_start=1e-4, prior_end=1e-5).minimise(
            mismatch,
            torch.zeros_like(solution),
            report=seen[settling].append,
            limits=SETTLING if settling else ContinuationLimits(),
        )
        for settling in (False, True)
    ]
    assert len(seen[True]) < 0.6 * len(seen[False])
    assert float((found[1] - found[0]).abs().max()) < 1e-3
    assert float(mismatch(found[1])) < 1.1 * float(mismatch(found[0])) + 1e-9


def test_what_settles_a_stage_is_what_its_last_steps_took_away() -> None:
    falling = [0.5**step for step in range(9)]
    standing = [1.0 - 0.01 * step for step in range(9)]
    assert not SETTLING.settled(falling, last=False)
    assert SETTLING.settled(standing, last=False), "8% in eight steps: the next prior is the weaker one"
    assert not SETTLING.settled(standing, last=True)
    assert SETTLING.settled([1.0] * 9, last=True)
    assert not SETTLING.settled([1.0] * 8, last=True), "too few to tell"
    assert not ContinuationLimits().settled([1.0] * 9, last=True), (
        "no stage ends so where nothing asks for it"
    )


def test_the_prior_decides_where_the_data_say_nothing() -> None:
    """Only the mean of each channel is measured: the flattest image with these means is constant."""
    means = torch.tensor([0.3, -0.2, 0.1])

    def mismatch(images: Tensor) -> Tensor:
        return (images.mean((2, 3)) - means).square().sum() / means.square().sum()

    start = random_images(1, 4)
    found = Continuation(evaluations=600, prior_start=1e-3, prior_end=1e-3).minimise(mismatch, start)
    torch.testing.assert_close(found, means[None, :, None, None].expand_as(found), rtol=0, atol=0.01)
    stiff = Continuation(evaluations=30, stages=1, prior_end=1e-8)
    loose = stiff.minimise(mismatch, start)
    smooth = stiff.minimise(mismatch, start, stiffness=1e5)
    assert float(colour_variation(smooth)) < 0.5 * float(colour_variation(loose))


def test_descent_stops_once_the_images_explain_the_data_as_well_as_the_truth_does() -> None:
    mismatch, _, solution = least_squares(1e4)

    def run(error: float) -> tuple[float, int]:
        seen: list[float] = []
        start = torch.zeros_like(solution)
        found = Continuation(evaluations=300).minimise(mismatch, start, error=error, report=seen.append)
        return float(mismatch(found)), len(seen)

    through, all_of_them = run(0.0)
    assert through < 1e-5
    assert all_of_them > 250
    for error in (0.01, 0.1):
        reached, fewer = run(error)
        assert 0.01 * error < reached < error
        assert fewer < 0.5 * all_of_them


def test_descent_starts_where_it_is_told_and_leaves_the_start_alone() -> None:
    mismatch, _, solution = least_squares()
    start = solution.clone()
    found = Continuation(evaluations=3).minimise(mismatch, start)
    assert torch.equal(start, solution)
    assert float((found - solution).abs().max()) < 1e-3


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_mismatch_that_is_not_finite_fails(value: float) -> None:
    def broken(images: Tensor) -> Tensor:
        return images.square().sum() + value

    with pytest.raises(AttackFailed, match="not finite"):
        Continuation(evaluations=9).minimise(broken, random_images())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stages": 0}, "stages = 0: must be at least 1"),
        ({"evaluations": 2}, "evaluations = 2: must be at least stages = 3"),
        ({"prior_start": 0.0}, "prior_start = 0.0: must be more than 0"),
        ({"prior_start": math.inf}, "prior_start = inf: must be more than 0"),
        ({"prior_end": 0.0}, "prior_end = 0.0: must be more than 0, at most prior_start = 1e-08"),
        ({"prior_end": 1.0}, "prior_end = 1.0: must be more than 0, at most prior_start = 1e-08"),
        ({"chroma": -1.0}, "chroma = -1.0: must be at least 0"),
        ({"edge": 0.0}, "edge = 0.0: must be more than 0"),
        ({"memory": 0}, "memory = 0: must be at least 1"),
    ],
)
def test_bad_settings_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"Continuation.{message}"):
        Continuation(**options)
