"""A layer's gradient as a matrix of low rank under errors: its leading factors, their noise, and what was withheld.

B images leave a matrix of rank B. What lies beyond that rank is noise, so its size is seen and need not be told: the
mean square of the rest, per degree of freedom. Numbers that were withheld follow from rank and from those that were
sent, by alternating least squares (Jain, Netrapalli & Sanghavi 2013, arXiv:1212.0467), for rows with enough of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from attack_core.fc.spear import Inseparable
from fl_core.base.decibels import TINY
from fl_core.base.rng import generator


@dataclass(frozen=True, kw_only=True)
class FactorLimits:
    """When a matrix has a rank, and how withheld numbers are searched for.

    Fixed on batches of 4 to 64 CIFAR-10 pictures of the train split.
    """

    above_noise: float = 1.05
    """The largest singular value of a gradient that says anything, as a multiple of the largest of noise alone.

    Of noise alone it is 1 (Marchenko and Pastur 1967). Weaker images of a batch are lost, stronger ones are found.
    """
    turns: int = 60
    """How often rows and columns are solved for from each other at most; not measured against others."""
    settled: float = 1e-5
    """What is withheld is settled where a turn makes the residual smaller by less than this, relatively."""
    exact: float = 1e-7
    """A smaller residual is float32's rounding."""
    ridge: float = 1e-6
    """Added to the equations of each row, as a share of the rows' mean: rows of which nothing was sent come out 0."""
    equations: float = 2.0
    """Numbers sent of a row, for each image, below which the row is not used."""
    spare: int = 8
    """Random directions beyond the rank, as usual, where the noise alone is asked for."""
    together: int = 2**24
    """Numbers of the outer products that are formed at a time."""


FACTOR_LIMITS = FactorLimits()
"""The limits in force."""


@dataclass(frozen=True)
class Layer:
    """A weight gradient (O, I), float64, perhaps with the bias's behind it, `mask` (O, I) of what was sent, or None."""

    values: Tensor
    mask: Tensor | None = None

    def transposed(self) -> Layer:
        """The same with rows for columns."""
        return Layer(self.values.mT, None if self.mask is None else self.mask.mT)


@dataclass(frozen=True)
class Factors:
    """The leading part of a matrix (O, I): its `rows` in coordinates (O, R) of an orthonormal `basis` (I, R).

    `noise` is the standard deviation of one number of the matrix, `row_noise` that of one coordinate of a row. `seen`
    (O,) marks rows of which enough was sent. `clearance` is the last singular value over the largest of noise alone.
    """

    rows: Tensor
    basis: Tensor
    noise: float
    row_noise: float
    seen: Tensor
    clearance: float


def leading_factors(layer: Layer, rank: int, limits: FactorLimits = FACTOR_LIMITS) -> Factors:
    """The factors of this `rank`; raises `Inseparable` where the matrix is too small or noise hides that rank."""
    _check_size(layer.values, rank)
    if layer.mask is not None:
        return _completed(layer.values, layer.mask, rank, limits)
    basis, spectrum, noise = _subspace(layer.values, rank)
    seen = torch.ones(len(layer.values), dtype=torch.bool)
    return Factors(
        layer.values @ basis, basis, noise, noise, seen, _clearance(spectrum, noise, layer.values, limits)
    )


def clearance(matrix: Tensor, rank: int, limits: FactorLimits = FACTOR_LIMITS) -> float:
    """About `Factors.clearance` of a matrix (O, I), in a tenth of the time; raises as `leading_factors` does.

    The leading part is that of a random projection after one power iteration (Halko, Martinsson and Tropp 2011,
    arXiv:0909.4061), always of the same draws.
    """
    _check_size(matrix, rank)
    taken = min(rank + limits.spare, min(matrix.shape) - 1)
    probes = torch.randn((matrix.shape[1], taken), generator=generator("clearance"), dtype=matrix.dtype)
    right = torch.linalg.qr(matrix.mT @ (matrix @ probes)).Q
    left = torch.linalg.qr(matrix @ right).Q
    part = left.mT @ matrix
    spectrum = torch.linalg.svdvals(part)[:rank]
    freedom = (matrix.shape[0] - taken) * (matrix.shape[1] - taken)
    noise = float((matrix - left @ part).norm()) / math.sqrt(freedom)
    return _clearance(spectrum, noise, matrix, limits)


def _check_size(matrix: Tensor, rank: int) -> None:
    if min(matrix.shape) <= rank:
        raise Inseparable(f"{rank} images are too many for a layer of shape {tuple(matrix.shape)}")


def _clearance(spectrum: Tensor, noise: float, matrix: Tensor, limits: FactorLimits) -> float:
    """How far the last of the leading singular values is above noise alone; raises where not even the first is."""
    largest = max(noise * sum(math.sqrt(side) for side in matrix.shape), TINY)
    if not float(spectrum[0]) > limits.above_noise * largest:
        raise Inseparable(f"noise hides all of {len(spectrum)} images")
    return float(spectrum[-1]) / largest


def _subspace(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor, float]:
    """The leading right singular vectors (I, R) of a matrix (O, I), its singular values (R,), and the noise."""
    wide = matrix.shape[0] <= matrix.shape[1]
    squares, vectors = torch.linalg.eigh(matrix @ matrix.mT if wide else matrix.mT @ matrix)
    squares, vectors = squares.flip(0).clamp_min(0.0), vectors.flip(1)[:, :rank]
    freedom = (matrix.shape[0] - rank) * (matrix.shape[1] - rank)
    noise = math.sqrt(float(squares[rank:].sum()) / freedom)
    basis = torch.linalg.qr(matrix.mT @ vectors).Q if wide else vectors
    return basis, squares[:rank].sqrt(), noise


def _completed(values: Tensor, mask: Tensor, rank: int, limits: FactorLimits) -> Factors:
    """What `leading_factors` is where only the numbers of `mask` were sent, 0 elsewhere."""
    known = mask.to(values)
    whole = float(values.norm().clamp_min(TINY))
    basis, _, _ = _subspace(values, rank)
    transposed, columns = Layer(values, mask).transposed(), basis
    last = math.inf
    for _ in range(limits.turns):
        left = torch.linalg.qr(solved_rows(Layer(values, mask), columns, limits)).Q
        columns = solved_rows(transposed, left, limits)
        residual = float(((left @ columns.mT - values) * known).norm()) / whole
        columns = torch.linalg.qr(columns).Q
        if residual < limits.exact or last - residual < limits.settled * last:
            break
        last = residual
    rows = solved_rows(Layer(values, mask), columns, limits)
    sent = known.sum(1)
    seen = sent >= limits.equations * rank
    freedom = max(float(known.sum()) - rank * (sum(values.shape) - rank), 1.0)
    noise = float(((rows @ columns.mT - values) * known)[seen].norm()) / math.sqrt(freedom)
    if int(seen.sum()) <= 2 * rank:
        raise Inseparable(f"too few numbers were sent to tell {rank} images apart")
    row_noise = noise * math.sqrt(values.shape[1] / float(sent[seen].mean()))
    return Factors(rows, columns, noise, row_noise, seen, math.inf)


def solved_rows(layer: Layer, basis: Tensor, limits: FactorLimits = FACTOR_LIMITS) -> Tensor:
    """Each row's coordinates (O, R) in the columns of `basis` (I, R), by least squares over what was sent of it."""
    return solved_with_errors(layer, basis, limits)[0]


def solved_with_errors(
    layer: Layer, basis: Tensor, limits: FactorLimits = FACTOR_LIMITS
) -> tuple[Tensor, Tensor]:
    """The same with their standard deviations (O, R), or (1, R) for all rows, where numbers are off by 1."""
    rank = basis.shape[1]
    if layer.mask is None:
        inverse = torch.linalg.pinv(basis)
        return layer.values @ inverse.mT, inverse.norm(dim=1)[None]
    gram = basis.mT @ basis
    ridge = limits.ridge * float(gram.diagonal().mean()) * torch.eye(rank, dtype=basis.dtype)
    outer = (basis[:, :, None] * basis[:, None, :]).flatten(1)
    found, errors = [], []
    for values, mask in zip(
        layer.values.split(_at_once(layer, rank, limits)),
        layer.mask.split(_at_once(layer, rank, limits)),
        strict=True,
    ):
        normal = (mask.to(outer) @ outer).view(-1, rank, rank) + ridge
        inverse = torch.linalg.inv(normal)
        found.append((inverse @ ((values * mask) @ basis)[..., None])[..., 0])
        errors.append(inverse.diagonal(dim1=1, dim2=2).clamp_min(0.0).sqrt())
    return torch.cat(found), torch.cat(errors)


def _at_once(layer: Layer, rank: int, limits: FactorLimits) -> int:
    """Of how many rows equations are solved together."""
    return max(1, limits.together // max(rank * rank, layer.values.shape[1]))
