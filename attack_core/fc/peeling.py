"""Large batches at two hidden layers: image by image, each checked by the network before the next is looked for.

With two fully connected layers behind it, a batch's gradient at the first hidden layer is E^T X, and at the second
F^T H, for errors E and F, inputs X and outputs H of the ReLU. An image's error has its zeros where its output has. So a
direction of the first column space that is an image's error (`attack_core.fc.sparse_directions`) gives the units that
are off; the one vector of the second row space that is 0 there is the image's output h, up to scale; and the units that
are on say W x + b = h, linear equations for an x in the first row space. No other image need be known for that.

The network then says which error this x causes with each label. Where that is the direction that was found, the image
is right beyond doubt. Its exact part is taken off all gradients (rank reduction after Wedderburn 1934), and what is
left is a smaller batch, in which directions are easier to find. The idea of reading errors off exact zeros is Dimitrov
et al.'s (2024, SPEAR, arXiv:2403.03945).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from attack_core.fc.head import Head
from attack_core.fc.sparse_directions import least_said, sparse_directions, units_off
from attack_core.fc.spear import SPEAR_LIMITS, Inseparable
from fl_core.base.decibels import TINY
from fl_core.base.device import exact
from fl_core.base.types import Tensors

_PURPOSE = "taking a batch's gradient apart"


@dataclass(frozen=True, kw_only=True)
class PeelingLimits:
    """When a batch is tried, an image believed, and the search given up.

    Fixed on batches of CIFAR-10 pictures of the train split.
    """

    least_units: int = 8
    """Units of the first layer for each image, below which nothing is tried.

    One batch each came apart at 128, 32 and 16 units for each image: at 16 an eighth of 128 images at first, and the
    others as these were taken off. Smaller numbers were not measured.
    """
    misfit: float = 1e-3
    """How far a direction may be from the error that the network makes of the image, relatively.

    Four images that were nearly right, and that further turns corrected, were at 0.08 to 0.44 on one batch of 64.
    """
    turns: int = 4
    """How often an image that is nearly right is solved for again at most; not measured."""
    sure: float = 0.05
    """A unit is on or off beyond doubt where its output is further from 0 than this share of the root mean square."""
    one_image: float = 1e-2
    """Inputs that are nearer than this are one image found twice."""
    fruitless: int = 3
    """Searches in a row that find no image, before the rest is given up. Each starts elsewhere; not measured."""


PEELING_LIMITS = PeelingLimits()
"""The limits in force."""


@dataclass(frozen=True)
class Peeled:
    """The images that came apart: `inputs` (N, I), `errors` (N, O), `logit_errors` (N, K), of the head's first layer.

    `others` (M,) are the classes of the other images as far as the last bias's gradient tells them. `residual` is the
    relative L2 distance between the observed weight gradient and what the images explain of it.
    """

    inputs: Tensor
    errors: Tensor
    logit_errors: Tensor
    others: Tensor
    residual: float


def can_peel(head: Head) -> bool:
    """Whether two hidden layers follow the first layer's input."""
    return len(head.layers) >= 3 and not head.random


def peel(
    gradients: Tensors,
    weights: Tensors,
    head: Head,
    count: int,
    generator: torch.Generator,
    limits: PeelingLimits = PEELING_LIMITS,
) -> Peeled:
    """As many of `count` images as come apart, from `gradients` taken at `weights` (both by parameter name).

    Raises `Inseparable` where the layer is too narrow, the gradient has another rank, and no image comes apart.
    """
    units = len(weights[f"{head.first}.bias"])
    if units < limits.least_units * count:
        raise Inseparable(
            f"layer {head.first} has {units} units for {count} images: fewer than {limits.least_units} for each"
        )
    left = _Remainder.of(gradients, weights, head)
    found: list[_Image] = []
    fruitless = 0
    while len(found) < count and fruitless < limits.fruitless:
        before = len(found)
        try:
            seen = list(_images(left, count - len(found), generator, limits))
        except Inseparable:
            if not found:
                raise
            break  # What rounding left of the others has no rank.
        for image in seen:
            if all(float((image.inputs - other.inputs).norm()) > limits.one_image for other in found):
                found.append(image)
                if len(found) == count:
                    break
        for image in found[before:]:
            left = left.without(image)
        fruitless = fruitless + 1 if len(found) == before else 0
    if not found:
        raise Inseparable(f"none of {count} images came apart")
    like = gradients[f"{head.first}.weight"]
    return Peeled(
        inputs=torch.stack([image.inputs[:-1] for image in found]).to(like),
        errors=torch.stack([image.errors[0] * image.factor for image in found]).to(like),
        logit_errors=torch.stack([image.errors[-1] * image.factor for image in found]).to(like),
        others=classes_left(left.bias, count - len(found)).to(like.device),
        residual=float(
            torch.linalg.vector_norm(left.first)
            / torch.linalg.vector_norm(exact(like, _PURPOSE)).clamp_min(TINY)
        ),
    )


@dataclass(frozen=True)
class _Image:
    """One image: its first input with a 1 at the end (I + 1,), and each layer's errors and inputs, first to last."""

    inputs: Tensor
    errors: tuple[Tensor, ...]
    hidden: Tensor
    factor: float


@dataclass(frozen=True)
class _Remainder:
    """What is left of the gradients: `first` (O, I + 1), the bias's in the last column, `second` (P, O), `bias` (K,).

    `layers` are weights and biases, first to last. All float64 on the CPU.
    """

    first: Tensor
    second: Tensor
    bias: Tensor
    layers: tuple[tuple[Tensor, Tensor], ...]

    @classmethod
    def of(cls, gradients: Tensors, weights: Tensors, head: Head) -> _Remainder:
        """The whole gradients."""
        layers = tuple(
            (exact(weights[f"{name}.weight"], _PURPOSE), exact(weights[f"{name}.bias"], _PURPOSE))
            for name in head.layers
        )
        first, second, last = head.layers[0], head.layers[1], head.layers[-1]
        weight, offset = (exact(gradients[f"{first}.{kind}"], _PURPOSE) for kind in ("weight", "bias"))
        return cls(
            torch.cat([weight, offset[:, None]], dim=1),
            exact(gradients[f"{second}.weight"], _PURPOSE),
            exact(gradients[f"{last}.bias"], _PURPOSE),
            layers,
        )

    def without(self, image: _Image) -> _Remainder:
        """The same without an image's own part."""
        factor = image.factor
        return _Remainder(
            self.first - factor * torch.outer(image.errors[0], image.inputs),
            self.second - factor * torch.outer(image.errors[1], image.hidden),
            self.bias - factor * image.errors[-1],
            self.layers,
        )

    def errors_of(self, inputs: Tensor) -> tuple[list[Tensor], Tensor]:
        """Each layer's errors (K, O), were the label 0, 1, ... K - 1, and the first ReLU's output (O,)."""
        passed, on, hidden = inputs, [], []
        for number, (weight, bias) in enumerate(self.layers):
            passed = weight @ passed + bias
            if number < len(self.layers) - 1:
                on.append(passed > 0)
                passed = passed.relu()
                hidden.append(passed)
        errors = [passed.softmax(0) - torch.eye(len(passed), dtype=passed.dtype)]
        for (weight, _), reacts in zip(self.layers[:0:-1], on[::-1], strict=True):
            errors.insert(0, (errors[0] @ weight) * reacts)
        return errors, hidden[0]


def _images(
    left: _Remainder, count: int, generator: torch.Generator, limits: PeelingLimits
) -> Iterator[_Image]:
    """Images that the network confirms, each perhaps more than once; `count` are left."""
    first = rank_factors(left.first, count)
    columns, rows = first.columns, first.rows
    outputs = rank_factors(left.second.mT, count).columns
    weight, bias = left.layers[0]
    pushed = torch.cat([weight, bias[:, None]], dim=1) @ rows.mT
    for direction in sparse_directions(columns, generator, first.noise):
        error = columns @ direction
        off = units_off(error)
        on = ~off
        for _ in range(limits.turns):
            if not (int(off.sum()) >= count and int(on.sum()) > count + 1):
                break
            # What is 0 where the image is off, of all outputs: its own.
            output = outputs @ least_said(outputs[off])
            solution = least_said(torch.cat([pushed[on], -output[on][:, None]], dim=1))
            inputs = solution[:-1] @ rows
            inputs = inputs / inputs[-1]
            if not bool(torch.isfinite(inputs).all()):
                break
            image = _confirmed(left, inputs, error, columns, rows, limits)
            if image is not None:
                yield image
                break
            # Small errors pass for zeros; the image, nearly right, says better which units are on beyond doubt.
            reached = weight @ inputs[:-1] + bias
            sure = limits.sure * reached.square().mean().sqrt()
            off, on = reached < -sure, reached > sure
            if int(off.sum()) >= count:
                error = columns @ least_said(columns[off])


def _confirmed(
    left: _Remainder, inputs: Tensor, error: Tensor, columns: Tensor, rows: Tensor, limits: PeelingLimits
) -> _Image | None:
    """The image with these `inputs` (I + 1,), where with some label it causes `error` (O,), up to scale."""
    errors, hidden = left.errors_of(inputs[:-1])
    cosines = functional.cosine_similarity(errors[0], error[None], dim=1).abs()
    label = int(cosines.argmax())
    if 2.0 - 2.0 * float(cosines[label]) > limits.misfit**2:
        return None
    own = tuple(each[label] for each in errors)
    # By how much of it the gradient has to be reduced for its rank to fall by one.
    inverse = torch.linalg.lstsq(rows.mT, inputs[:, None]).solution[:, 0] @ (columns.mT @ own[0])
    if not float(inverse) > 0:
        return None
    return _Image(inputs, own, hidden, 1.0 / float(inverse))


def classes_left(bias: Tensor, count: int) -> Tensor:
    """The classes (count,) behind what is left of the last bias's gradient (K,): the most negative, then lifted.

    After Wainakh et al. 2022 (arXiv:2105.09369).
    """
    lifted, found = bias.clone(), list[int]()
    share = -lifted.clamp_max(0.0).sum() / max(count, 1)
    for _ in range(count):
        found.append(int(lifted.argmin()))
        lifted[found[-1]] += share
    return torch.tensor(found, dtype=torch.int64)


@dataclass(frozen=True)
class RankFactors:
    """A matrix (O, I) as orthonormal `columns` (O, R) times `rows` (R, I).

    `noise` is the first singular value that was left out, as a share of the last one that was not.
    """

    columns: Tensor
    rows: Tensor
    noise: float


def rank_factors(matrix: Tensor, rank: int, gap: float = SPEAR_LIMITS.rank_gap) -> RankFactors:
    """The factors of `matrix` (O, I) at this `rank`; refuses another numerical rank.

    Of this rank is what has a `gap`, a factor, between the singular value of that number and the next.
    """
    if min(matrix.shape) < rank:
        raise Inseparable(f"{rank} images are too many for a layer of shape {tuple(matrix.shape)}")
    small = matrix @ matrix.mT if matrix.shape[0] <= matrix.shape[1] else matrix.mT @ matrix
    squares, vectors = torch.linalg.eigh(small)
    spectrum = squares.flip(0).clamp_min(0.0).sqrt()
    vectors = vectors.flip(1)[:, :rank]
    last, left_out = float(spectrum[rank - 1]), float(spectrum[rank]) if rank < len(spectrum) else 0.0
    if rank < len(spectrum) and last <= gap * left_out:
        raise Inseparable(f"its gradient does not have rank {rank}, one for each image, above its noise")
    columns = vectors if matrix.shape[0] <= matrix.shape[1] else matrix @ vectors / spectrum[:rank]
    return RankFactors(columns, columns.mT @ matrix, left_out / max(last, TINY))
