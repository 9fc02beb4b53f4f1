"""Batch separation (SPEAR): a batch's layer inputs from the gradient of a layer that a ReLU follows.

The weight gradient is a mixture of rank B, sum over b of error_b input_b^T, and a ReLU makes the errors sparse:
unit j is off for image b exactly where error_bj = 0. In the B-dimensional column space of the gradient the true
errors are the directions with conspicuously many zeros. B - 1 units that are all off for one image determine its
direction, so random choices of B - 1 units are tried until every image has been hit (Dimitrov et al. 2024, SPEAR,
arXiv:2403.03945). Scales follow from the bias gradient, which is the sum of the errors.

Faces switch the same units on, so zeros alone mislead: differences of images have many too, and choices that hit are
rare. Where the network's last layer follows, its weights say what an error looks like on the units that are on, which
settles the first (`_fits`), and with two classes tell pairs of units whose difference is as good as an off unit, which
settles the second (`_switches`). Both carry over to a weight delta over several steps, each image used once: every
image's share still has rank one and exact zeros, though the last layer moves on between the images.

The algebra runs in float64 on the CPU: it is small, and some accelerators have no float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fl_core.base.device import exact

_PURPOSE = "taking a batch's gradient apart"


@dataclass(frozen=True, kw_only=True)
class SpearLimits:
    """What counts as off, as one direction, as an image's error, and how many choices of units are tried.

    Chosen together on batches of synthetic faces and of the CelebA sample (docs/attacks.md, Which pictures fixed the
    constants); no field was measured against other values.
    """

    together: int = 4096
    """Choices of units that are tried at a time."""
    rank_gap: float = 10.0
    """By which factor the gradient's last singular value of an image must exceed the next one, which is noise."""
    live: float = 1e-5
    """A unit whose row is shorter than this share of the longest row is on for no image."""
    numbers: int = 2**22
    """So many numbers at most have the matrices of sets of zeros that are looked at together: 32 MB."""
    rounding: float = 1e-12
    """Squares below this share of the largest are rounding of float64."""
    off: float = 1e-3
    """A unit is off where the error is below this share of the direction's largest error."""
    parallel: float = 1e-8
    """Two units are on for the same images where the cosine of their rows is this close to 1 (float64)."""
    one_direction: float = 1e-4
    """Two directions are one where their cosine is this close to 1."""
    independent: float = 1e-6
    """Unit directions are independent where their smallest singular value exceeds this."""
    fit_still: float = 1e-2
    """How far, relatively, an image's error may be from the last layer's span, where its weights stood still."""
    fit_moved: float = 0.1
    """The same where the weights moved between the images: no weights at one moment explain all errors then."""
    common: float = 1e-2
    """With two classes: units whose common error is below this share of the largest take no part in pairs."""
    one_unit: float = 1e-4
    """With two classes: two units say the same where their distance is below this share of the largest distance."""
    partners: int = 4
    """With two classes: how many similar units each unit is compared with."""
    tightenings: int = 3
    """How often a direction that is nearly right is fitted anew to the units that it leaves most nearly off."""
    contradictions: float = 0.1
    """The share of units that may contradict an image. Some do where the weights moved."""


SPEAR_LIMITS = SpearLimits()
"""The limits in force."""

Layer = tuple[Tensor, Tensor]
"""A linear layer's weights (O, I) and biases (O,)."""


class Inseparable(Exception):
    """The gradient could not be taken apart; the message says why."""


@dataclass(frozen=True)
class Separation:
    """A layer's gradient taken apart: `errors` (B, O), `inputs` (B, I), and how well they explain it.

    `residual` is the relative L2 distance between the observed weight gradient and the one they give.
    """

    errors: Tensor
    inputs: Tensor
    residual: float


def separate_batch(
    weight: Tensor,
    bias: Tensor,
    count: int,
    generator: torch.Generator,
    *,
    layers: tuple[Layer, ...],
    outgoing: tuple[Tensor, ...] = (),
    rounds: int = 100,
    tolerance: float = 1e-3,
    limits: SpearLimits = SPEAR_LIMITS,
) -> Separation:
    """Errors and inputs of `count` images from a weight gradient (O, I) and a bias gradient (O,).

    `layers` is the layer itself, weights (O, I) and biases (O,), `outgoing` the weights (K, O) of the last layer where
    it follows next, without which zeros alone decide; each for a weight delta over several steps before and after. At
    most `rounds` times `limits.together` choices of units are tried; `tolerance` bounds the relative residual of both
    gradients. Raises `Inseparable`.
    """
    last = _LastLayer.of([exact(each, _PURPOSE) for each in outgoing], limits) if outgoing else None
    problem = _SeparationProblem.of(
        exact(weight, _PURPOSE), exact(bias, _PURPOSE), count, layers, last, limits
    )
    found: list[Tensor] = []
    tried, told_apart, mixture = 0, 0, None
    for candidates in _candidates(problem, generator, rounds):
        for direction in _conspicuous(problem, candidates):
            if all(float((direction @ known).abs()) < 1 - limits.one_direction for known in found):
                found.append(direction)
        if count <= len(found) and (last is not None or len(found) >= 2 * count or count == 1):
            if len(found) == tried:
                continue  # The same directions have the same answer.
            tried = len(found)
            told_apart, mixture = _solve(problem, found, tolerance)
            if mixture is not None:
                break
    else:
        if last is None and count <= len(found) and len(found) != tried:
            # Few images have few directions: with two, the images' own may be all there are.
            told_apart, mixture = _solve(problem, found, tolerance)
    if mixture is None:
        raise Inseparable(f"{told_apart or min(len(found), count - 1)} of {count} images were told apart")
    return Separation(mixture.errors.to(weight), mixture.inputs.to(weight), mixture.residual)


@dataclass(frozen=True)
class _LastLayer:
    """What it says of errors: they combine the columns of `span` (O, S) where units are on, up to `fit`.

    `common` (O,) is what all errors have in common there, if there are just two classes.
    """

    span: Tensor
    common: Tensor | None
    fit: float

    @classmethod
    def of(cls, outgoing: list[Tensor], limits: SpearLimits) -> _LastLayer:
        """Softmax minus one-hot sums to zero over classes, so errors combine differences of rows."""
        span = torch.cat([(each[1:] - each[:1]).mT for each in outgoing], dim=1)
        common = span.mean(1) if len(outgoing[0]) == 2 else None
        return cls(span, common, limits.fit_still if len(outgoing) == 1 else limits.fit_moved)

    def of_units(self, which: Tensor) -> _LastLayer:
        """The same for some of the units."""
        return _LastLayer(self.span[which], None if self.common is None else self.common[which], self.fit)

    def fits(self, errors: Tensor, on: Tensor, limits: SpearLimits) -> Tensor:
        """Whether each row of errors (N, O) could be an image's, by its units that are `on` (N, O) alone, (N,)."""
        weights = on.to(errors)
        energy, products = (weights * errors.square()).sum(1), (weights * errors) @ self.span
        squares = _squares(self.span, weights)
        inverses = torch.linalg.pinv(squares, hermitian=True, rtol=limits.rounding)
        solved = (inverses @ products[:, :, None]).squeeze(2)
        fits: Tensor = energy - (products * solved).sum(1) < self.fit**2 * energy
        return fits


@dataclass(frozen=True)
class _SeparationProblem:
    """The gradients `weight` = `left` `rows`, (O, B) times (B, I), and `bias` (O,), and the layers around them."""

    weight: Tensor
    bias: Tensor
    left: Tensor
    rows: Tensor
    layers: tuple[Layer, ...]
    last: _LastLayer | None
    limits: SpearLimits

    @classmethod
    def of(
        cls,
        weight: Tensor,
        bias: Tensor,
        count: int,
        layers: tuple[Layer, ...],
        last: _LastLayer | None,
        limits: SpearLimits,
    ) -> _SeparationProblem:
        """Factors of rank `count` with orthonormal rows in the second; refuses another numerical rank."""
        if min(weight.shape) <= count:
            raise Inseparable(f"{count} images are too many for a layer of shape {tuple(weight.shape)}")
        squares, columns = torch.linalg.eigh(weight @ weight.mT)
        spectrum = squares.flip(0).clamp_min(0.0).sqrt()
        columns = columns.flip(1)[:, :count]
        if float(spectrum[count - 1]) <= limits.rank_gap * float(spectrum[count]):
            raise Inseparable(f"its gradient does not have rank {count}, one for each image, above its noise")
        left, rows = columns * spectrum[:count], (columns.mT @ weight) / spectrum[:count, None]
        double = tuple((exact(each, _PURPOSE), exact(offset, _PURPOSE)) for each, offset in layers)
        return cls(weight, bias, left, rows, double, last, limits)

    @property
    def count(self) -> int:
        """How many images there are."""
        return self.left.shape[1]


def _candidates(problem: _SeparationProblem, generator: torch.Generator, rounds: int) -> Iterator[Tensor]:
    """Directions (N, B), unit vectors, that leave a random choice of B - 1 units off; again and again.

    Units themselves and, before two classes, their switches take turns: switches hit far more often where the last
    layer stood still, units alone are exact where it moved.
    """
    left, last, limits = problem.left[_live(problem)], problem.last, problem.limits
    if problem.count == 1:
        yield torch.ones((1, 1), dtype=left.dtype)
        return
    pools = [_distinct(left, limits)]
    if last is not None and last.common is not None:
        pools.insert(0, _switches(left, last.common[_live(problem)], limits))
    pools = [units for units in pools if len(units) >= problem.count]
    if not pools:
        raise Inseparable(f"too few units react to tell {problem.count} images apart")
    for number in range(rounds):
        units = pools[number % len(pools)]
        keys = torch.rand((limits.together, len(units)), generator=generator)
        chosen = units[keys.topk(problem.count - 1, dim=1).indices]
        candidates = torch.linalg.qr(chosen.mT, mode="complete").Q[:, :, -1]
        yield torch.cat([candidates, _tightened(left, candidates, limits)]) if len(pools) > 1 else candidates


def _live(problem: _SeparationProblem) -> Tensor:
    """Units that are on for any image."""
    size = problem.left.norm(dim=1)
    live: Tensor = size > problem.limits.live * size.max()
    return live


def _distinct(rows: Tensor, limits: SpearLimits) -> Tensor:
    """Unit rows without those parallel to an earlier one: units that go on and off together say one thing."""
    unit = rows / rows.norm(dim=1, keepdim=True)
    parallel = (unit @ unit.mT).abs() > 1 - limits.parallel
    distinct: Tensor = unit[parallel.double().argmax(dim=1) == torch.arange(len(unit))]
    return distinct


def _switches(left: Tensor, common: Tensor, limits: SpearLimits) -> Tensor:
    """Rows for a layer before two classes: differences of units that are on for nearly the same images.

    Divided by what all errors have in common, a unit's row is the sum of one vector for each image it is on for. Two
    similar rows differ by the vectors of the few images that switch one of the units, so for any other image their
    difference is zero: far more often than a unit is off.
    """
    usable = common.abs() > limits.common * common.abs().max()
    sums = torch.cat([left[usable] / common[usable, None], torch.zeros_like(left[:1])])
    centred = sums - sums.mean(0)
    white = centred @ torch.linalg.inv(torch.linalg.cholesky(centred.mT @ centred)).mT
    near = torch.cdist(white, white)
    same = near < limits.one_unit * near.max()
    first = same.double().argmax(dim=1) == torch.arange(len(near))
    sums, near = sums[first], near[first][:, first].fill_diagonal_(torch.inf)
    partners = near.topk(min(limits.partners, len(near) - 1), dim=1, largest=False).indices
    return _distinct((sums[:, None] - sums[partners]).flatten(0, 1), limits)


def _tightened(left: Tensor, candidates: Tensor, limits: SpearLimits) -> Tensor:
    """Each nearly right direction (N, B) replaced by the one that its most nearly off units have in common."""
    unit = left / left.norm(dim=1, keepdim=True)
    many = min(2 * left.shape[1], len(unit))
    for _ in range(limits.tightenings):
        rows = unit[(candidates @ unit.mT).abs().topk(many, dim=1, largest=False).indices]
        candidates = torch.linalg.eigh(rows.mT @ rows).eigenvectors[:, :, 0]
    return candidates


def _conspicuous(problem: _SeparationProblem, candidates: Tensor) -> list[Tensor]:
    """The candidates (N, B) that look like an image's error, each computed anew from all the units it leaves off."""
    live = _live(problem)
    left, last = problem.left[live], None if problem.last is None else problem.last.of_units(live)
    errors = candidates @ left.mT
    off = errors.abs() < problem.limits.off * errors.abs().amax(dim=1, keepdim=True)
    if problem.count == 1:
        return list(candidates)
    enough = off.sum(1) >= (problem.count if last is not None else 2 * problem.count)
    # Choices of units repeat, so each set of zeros is looked at once.
    patterns = torch.unique(off[enough], dim=0)
    side = max(problem.count, 0 if last is None else last.span.shape[1])
    kept: list[Tensor] = []
    for some in patterns.split(max(1, problem.limits.numbers // side**2)):
        directions = torch.linalg.eigh(_squares(left, some.to(left))).eigenvectors[:, :, 0]
        if last is not None:
            directions = directions[last.fits(directions @ left.mT, ~some, problem.limits)]
        kept += directions
    return kept


def _squares(rows: Tensor, weights: Tensor) -> Tensor:
    """The sums (N, K, K) of the rows' (O, K) outer products, each row as often as `weights` (N, O) say."""
    outer = rows[:, :, None] * rows[:, None, :]
    return (weights @ outer.flatten(1)).view(-1, *outer.shape[1:])


def _solve(
    problem: _SeparationProblem, found: list[Tensor], tolerance: float
) -> tuple[int, Separation | None]:
    """Errors and inputs from the directions with most zeros, and how many images of the last trial hold up.

    Where one image's units include nearly all of another's, their difference looks like an image too. It is found out
    by running the recovered inputs through the layer: the units that they switch on are not the ones where its error
    is. The worst offender goes and the next direction takes its place.
    """
    errors = problem.left @ torch.stack(found, dim=1)
    zeros = (errors.abs() < problem.limits.off * errors.abs().amax(dim=0)).sum(0)
    remaining = [found[i] for i in zeros.argsort(descending=True, stable=True).tolist()]
    while True:
        chosen = _independent(remaining, problem)
        if len(chosen) < problem.count:
            return len(chosen), None
        mixture = _mixture(problem, torch.stack([remaining[i] for i in chosen], dim=1))
        contradictions = _contradictions(problem, mixture)
        if float(contradictions.max()) <= problem.limits.contradictions:
            explained = (mixture.errors.sum(0) - problem.bias).norm() / problem.bias.norm()
            if max(float(explained), mixture.residual) <= tolerance:
                return problem.count, mixture
        del remaining[chosen[int(contradictions.argmax())]]


def _independent(directions: list[Tensor], problem: _SeparationProblem) -> list[int]:
    """The first linearly independent directions, by index, up to one for each image."""
    chosen: list[int] = []
    for i, direction in enumerate(directions):
        stacked = torch.stack([*(directions[j] for j in chosen), direction], dim=1)
        if float(torch.linalg.svdvals(stacked)[-1]) > problem.limits.independent:
            chosen.append(i)
        if len(chosen) == problem.count:
            break
    return chosen


def _mixture(problem: _SeparationProblem, directions: Tensor) -> Separation:
    """What `directions` (B, B), in columns, make of both gradients; scales from the bias gradient."""
    errors = problem.left @ directions
    scales = torch.linalg.lstsq(errors, problem.bias[:, None]).solution[:, 0]
    errors = errors * scales
    inputs = torch.linalg.lstsq(directions * scales, problem.rows, driver="gelsd").solution
    residual = float((errors @ inputs - problem.weight).norm() / problem.weight.norm())
    return Separation(errors.mT, inputs, residual)


def _contradictions(problem: _SeparationProblem, mixture: Separation) -> Tensor:
    """(B,): the share of units that an image's input switches on without an error there, or the reverse.

    Where the layer moved, a unit counts that contradicts it both before and after.
    """
    reacts = mixture.errors.abs() > problem.limits.off * mixture.errors.abs().amax(dim=1, keepdim=True)
    contradicts = torch.ones_like(reacts)
    for weight, bias in problem.layers:
        contradicts &= (mixture.inputs @ weight.mT + bias > 0) != reacts
    return contradicts.double().mean(1)
