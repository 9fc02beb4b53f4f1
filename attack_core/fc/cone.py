"""A batch's layer inputs where these are nowhere negative: the corners of a simplex, by linear programs.

The weight gradient of a layer is E^T X, for errors E and inputs X of B images, and the bias gradient is E^T 1. So the
row space of both together holds every [x 1]. Behind a ReLU, pooled or not, inputs are not negative, and each image has
exact zeros of its own. Of all vectors of the row space that end in 1 those without a negative number are a polytope.
An image's input is a corner of it, where it has enough zeros that no other image shares, and where the images differ
enough there are no other corners: the polytope is the simplex of the images. A linear function is least at a corner,
and one that is the same at all corners known leads to another. So B images take about B linear programs.

Neither the errors nor what follows the layer are used: any number of classes above B will do behind a single layer, and
weights that moved behind it between the images do not matter. Where a client goes over its images again and again, an
image has another input each time, nearly parallel to the first. B directions then hold nearly all of the gradient, and
the corners are each image's mean input, to about the share that inputs change by.

Compare the Cocktail Party attack (Kariyappa et al. 2023, arXiv:2209.05578), which separates inputs as independent
components, and SPEAR (Dimitrov et al. 2024, arXiv:2403.03945), which uses the zeros of errors.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from scipy.optimize import linprog
from torch import Tensor, nn

from attack_core.fc.head import Head, Prefix
from attack_core.fc.peeling import rank_factors
from attack_core.fc.sparse_directions import least_said
from attack_core.fc.spear import SPEAR_LIMITS, Inseparable, Separation
from fl_core.base.decibels import TINY
from fl_core.base.device import exact
from fl_core.base.rng import generator
from fl_core.base.shape import ImageShape
from fl_core.base.types import ModelState

_PURPOSE = "taking a batch's gradient apart"


@dataclass(frozen=True, kw_only=True)
class ConeLimits:
    """What counts as a zero, and as another corner; fixed on CIFAR-10 pictures of the train split behind `cnn64`."""

    zero: float = 1e-4
    """An input is 0 where it is below this share of its image's largest number; rounding leaves about 1e-6."""
    zero_moved: float = 2e-3
    """The same where inputs are means over several passes.

    Over two passes 0.002 leaves errors of 0.5 to 1.5% in two batches of 8, 0.005 0.6 to 1.5%, 0.01 0.8 to 2.1%, 0.02 2
    to 5%, 0.05 6 to 12%.
    """
    other_moved: float = 0.05
    """`other` where inputs are means over several passes."""
    gap_moved: float = 1.0
    """The gap between the gradient's singular values there. Of two batches over two passes it was 13 and 17.

    With momentum, at larger rates and over five passes it was 1 to 4, and images came apart all the same.
    """
    zeros: int = 4
    """A corner is an image's where it has so many zeros for each image of the batch; any has one for each.

    Images behind `cnn64` have about 1,000 of 4,096.
    """
    other: float = 1e-4
    """A corner is a new one where the function that is 0 at all known ones is below this share of its range there."""
    slack: float = 0.0
    """How far below 0 a number may be, in units of the root mean square of the least input of height 1.

    0 where zeros are exact to rounding. Inputs of convolutions, which conjugate gradients found, are off by 3e-5
    (`attack_core.convolutions.batch_space`): without a slack no corner is left.
    """
    draws: int = 4
    """How many functions are tried for a further corner, each with both signs."""
    least_zeros: float = 0.02
    """Inputs of a layer count as rectified where noise has this share of exact zeros and no negative number."""


CONE_LIMITS = ConeLimits()
"""The limits in force."""
OFF_BY_LITTLE = ConeLimits(slack=3e-4)
"""Those where inputs are off by 3e-5. Of a batch of four behind `resnet18`, three layers of 2,048 numbers each, every
image came apart with a slack of 1e-4 and of 1e-3, to 5e-5, and with 1e-2 six of twelve did (pictures of CIFAR-10's
training split)."""


def rectified_inputs(
    model: nn.Module,
    state: ModelState,
    head: Head,
    shape: ImageShape,
    limits: ConeLimits = CONE_LIMITS,
) -> bool:
    """Whether the inputs of the head's first layer are what a ReLU leaves, seen on pictures of noise."""
    if head.pixels or head.random:
        return False
    device = next(iter(state.parameters.values())).device
    noise = torch.rand((2, *shape.size), generator=generator("rectified inputs")) * 2.0 - 1.0
    with torch.no_grad():
        inputs = Prefix(model, state, head.first)(noise.to(device))
    zeros = float((inputs == 0).float().mean())
    return bool((inputs >= 0).all()) and limits.least_zeros <= zeros < 1.0


def separate_rectified(
    weight: Tensor,
    bias: Tensor,
    count: int,
    draws: torch.Generator,
    *,
    moved: bool = False,
    limits: ConeLimits = CONE_LIMITS,
) -> Separation:
    """Errors (B, O) and inputs (B, I) of `count` images from a weight gradient (O, I) and a bias gradient (O,).

    Inputs have to be at least 0. `moved` says that each image was seen several times, while its input moved. Raises
    `Inseparable` where the gradient has another rank, and where the polytope has another number of corners with many
    zeros.
    """
    both = torch.cat([exact(weight, _PURPOSE), exact(bias, _PURPOSE)[:, None]], dim=1)
    gap = SPEAR_LIMITS.rank_gap
    if moved:
        limits = replace(limits, zero=limits.zero_moved, other=limits.other_moved)
        gap = limits.gap_moved
    factors = rank_factors(both, count, gap)
    columns, rows = factors.columns, factors.rows
    scale = torch.linalg.norm(rows, dim=1, keepdim=True)
    space = (rows / scale).mT
    if not bool(torch.isfinite(space).all()):
        raise Inseparable(f"its gradient has fewer than {count} directions, one for each image")
    last, inside = space[-1], space[:-1]
    live = inside[inside.norm(dim=1) > TINY**0.5 * inside.norm(dim=1).max()]
    corners: list[Tensor] = []
    while len(corners) < count:
        corner = _another(live, last, corners, draws, limits)
        if corner is None:
            raise Inseparable(
                f"{len(corners)} of {count} images were told apart by the zeros of their inputs"
            )
        corners.append(corner)
    found = torch.stack(corners)
    inputs = (found @ inside.mT).clamp_min(0.0)
    # E^T [X 1] is what was observed, and [X 1] = found space^T.
    errors = torch.linalg.solve(found.mT, (columns * scale.mT).mT)
    fitted = errors.mT @ inputs
    residual = float((fitted - both[:, :-1]).norm() / both[:, :-1].norm().clamp_min(TINY))
    return Separation(errors.to(weight), inputs.to(weight), residual)


def _another(
    live: Tensor, last: Tensor, corners: list[Tensor], draws: torch.Generator, limits: ConeLimits
) -> Tensor | None:
    """A corner (B,) that is none of `corners` and has an image's number of zeros; None where none is found.

    `live` (N, B) gives the inputs that may not be negative, `last` (B,) the 1 behind them.
    """
    size = live.shape[1]
    known = torch.stack(corners) if corners else live.new_zeros((0, size))
    free = torch.linalg.svd(known, full_matrices=True).Vh[len(known) :]
    for _ in range(limits.draws):
        weights = torch.randn(len(free), generator=draws, dtype=live.dtype)
        slope = weights @ free
        for sign in (1.0, -1.0):
            corner = _corner(live, last, sign * slope, limits)
            if corner is None:
                continue
            least = float(sign * slope @ corner)
            if not corners or -least > limits.other * float(slope.norm() * corner.norm()):
                return corner
    return None


def _corner(live: Tensor, last: Tensor, slope: Tensor, limits: ConeLimits) -> Tensor | None:
    """The corner where `slope` (B,) is least, fitted to all inputs that are 0 there; None where few are."""
    bounds = torch.zeros(len(live), dtype=live.dtype)
    if limits.slack:
        least = live @ (last / last.square().sum())
        bounds += limits.slack * least.square().mean().sqrt()
    found = linprog(
        slope.numpy(),
        A_ub=-live.numpy(),
        b_ub=bounds.numpy(),
        A_eq=last[None].numpy(),
        b_eq=[1.0],
        bounds=(None, None),
        method="highs",
    )
    if found.status != 0:
        return None
    corner: Tensor | None = torch.from_numpy(found.x)
    # With a slack the corner is near its place, and at it once the numbers that are 0 there are known.
    for zero in (max(limits.zero, 5.0 * limits.slack), limits.zero) if limits.slack else (limits.zero,):
        corner = None if corner is None else _fitted(live, last, corner, zero, limits)
    return corner


def _fitted(live: Tensor, last: Tensor, corner: Tensor, zero: float, limits: ConeLimits) -> Tensor | None:
    """The corner (B,) that all inputs fit best that are below a share of `zero` at `corner`; None where few are."""
    inputs = live @ corner
    off = inputs.abs() <= zero * inputs.max()
    if int(off.sum()) < limits.zeros * live.shape[1]:
        return None
    fitted = least_said(live[off])
    height = float(last @ fitted)
    return fitted / height if height else None
