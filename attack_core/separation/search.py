"""Images of a noisy batch, found one by one: approximately, and by what no other image need be known for.

As in `attack_core.fc.peeling`, whose exact zeros are zeros up to noise here. All fits are in coordinates in which the
noise of every unit is the same, so that least squares with errors in all numbers are not biased (total least squares).
An image that was found leaves the search by one equation: a direction that gives another image's error is orthogonal
to its input. So the zeros of the others stay zeros, and noise is not added up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from attack_core.fc.sparse_directions import DIRECTION_LIMITS, independent_directions, least_said
from attack_core.separation.factors import Factors
from attack_core.separation.network import Weights, errors_of, outputs_of


@dataclass(frozen=True, kw_only=True)
class SearchLimits:
    """When an image is near enough to be worth an exact look.

    Fixed on batches of 4, 16 and 64 CIFAR-10 pictures of the train split.
    """

    live: float = 5.0
    """A unit is on for some image where its row is so many times as long as noise makes it."""
    live_share: float = 1e-3
    """And where it is longer than this share of the longest, which rounding leaves of others."""
    live_left: float = 1e-2
    """The same once images were found, which are taken off as exactly as they were found."""
    sparse: float = 0.79
    """As `DirectionLimits.sparse`, where zeros are noisy: 0.80 is that of Gaussian numbers."""
    off: float = 1.5
    """A unit is off where its error is below so many standard deviations of the noise.

    At 4, fifty of 1,082 units of an image were on by a little, and its output was lost among those.
    """
    on: float = 5.0
    """A unit is on where its error is so many times that."""
    agree: float = 0.85
    """The share of the units that are off to which an output is fitted: others may be on by a little."""
    fits: int = 8
    """How often."""
    rounding: float = 3e-6
    """Or below this share of the largest error, which float32's rounding leaves."""
    least: float = 0.25
    """The share of units whose errors are surely zeros but for what other images leave, which were found roughly."""
    above_least: float = 5.0
    """Or below so many times the median of those: 1.5 standard deviations where half of all numbers are zeros."""
    turns: int = 6
    """How often an image is solved for again from the units that it switches on itself."""
    sure: float = 0.05
    """A unit is on or off beyond doubt where its output is further from 0 than this share of the root mean square."""
    misfit: float = 0.5
    """The largest relative distance of a direction from the error that the network makes of the image.

    What is not an image's error is at 0.8 and more mostly; what is no image after all drops out later.
    """
    settled_direction: float = 1.0 - 1e-12
    """The cosine of a direction with the one before at which it has settled."""
    settled: float = 1e-3
    """A smaller distance is not made smaller."""


SEARCH_LIMITS = SearchLimits()
"""The limits in force."""


@dataclass(frozen=True)
class Candidate:
    """An image's first input with a 1 behind it, (I + 1,), its class, and the distance of its error (`misfit`).

    `direction` (R,) gives its error among the rows of the first layer's factors.
    """

    inputs: Tensor
    direction: Tensor
    label: int
    misfit: float


@dataclass(frozen=True)
class Search:
    """Where images are looked for: the factors of the first layer's gradient, and of the second's, transposed.

    The second's `rows` are outputs of the first ReLU, in coordinates. `layers` are those of the head.
    """

    first: Factors
    outputs: Factors
    layers: Weights

    def images(
        self, known: Tensor, generator: torch.Generator, limits: SearchLimits = SEARCH_LIMITS
    ) -> Iterator[Candidate]:
        """Candidates that are none of the `known` images (N, I + 1), perhaps one image several times."""
        rank = self.first.basis.shape[1]
        usable = self.first.seen & self.outputs.seen
        free = torch.eye(rank, dtype=torch.float64)
        if len(known):
            free = torch.linalg.svd(known @ self.first.basis, full_matrices=True).Vh[len(known) :].mT
        rows = self.first.rows @ free
        weight, bias = self.layers[0]
        pushed = torch.cat([weight, bias[:, None]], dim=1) @ self.first.basis
        for direction in self._directions(rows, usable, generator, limits):
            whole = free @ direction
            if len(known):
                whole = self._trimmed(whole / whole.norm(), self.first.rows, usable, limits)
            found = self._followed(whole, self.first.rows, usable, pushed, limits)
            if found is not None:
                yield found

    def _directions(
        self, rows: Tensor, usable: Tensor, generator: torch.Generator, limits: SearchLimits
    ) -> Iterator[Tensor]:
        """Unit directions z (R,) for which `rows` (O, R) z has many numbers near 0."""
        if rows.shape[1] == 1:
            yield torch.ones(1, dtype=rows.dtype)
            return
        # Noise makes zeros look less like zeros.
        analysis = replace(DIRECTION_LIMITS, sparse=limits.sparse)
        left, sizes, right = torch.linalg.svd(rows[usable], full_matrices=False)
        for start in (independent_directions(left, generator, analysis) / sizes) @ right:
            yield self._trimmed(start / start.norm(), rows, usable, limits)

    def _trimmed(self, direction: Tensor, rows: Tensor, usable: Tensor, limits: SearchLimits) -> Tensor:
        """The direction (R,) fitted to ever more of the units that it leaves most off; see `sparse_directions`."""
        length = rows.norm(dim=1)
        noise = limits.live * self.first.row_noise * rows.shape[1] ** 0.5
        share = limits.live_share if rows.shape[1] == self.first.rows.shape[1] else limits.live_left
        live = usable & (length > noise) & (length > share * length[usable].max())
        dead, least = int((usable & ~live).sum()), DIRECTION_LIMITS.zeros_an_image * rows.shape[1]
        seen = rows[live] / length[live, None]
        for turn in range(DIRECTION_LIMITS.most_fits):
            share = DIRECTION_LIMITS.shares[min(turn, len(DIRECTION_LIMITS.shares) - 1)]
            many = max(int(share * int(usable.sum())) - dead, least)
            if many >= len(seen):
                break
            before = direction
            direction = least_said(seen[(seen @ direction).abs().topk(many, largest=False).indices])
            if float((direction @ before).abs()) > limits.settled_direction:
                break
        return direction

    def _followed(
        self, direction: Tensor, rows: Tensor, usable: Tensor, pushed: Tensor, limits: SearchLimits
    ) -> Candidate | None:
        """The image whose error the direction gives, where there is one."""
        weight, bias = self.layers[0]
        error, best = rows @ direction, None
        sizes = error[usable].abs()
        least = sizes.topk(max(int(limits.least * len(sizes)), 1), largest=False).values.median()
        zero = max(
            limits.off * self.first.row_noise,
            limits.rounding * float(sizes.max()),
            limits.above_least * float(least),
        )
        off, on = error.abs() <= zero, error.abs() > limits.on * zero
        for _ in range(limits.turns):
            off, on = off & usable, on & usable
            if int(off.sum()) < self.outputs.rows.shape[1] or int(on.sum()) <= pushed.shape[1] + 1:
                break
            # What is 0 where the image is off, of all outputs: its own.
            output = self.outputs.rows @ _trimmed_least(self.outputs.rows[off], limits)
            # The weights are exact, so that all error is the output's: what hardly moves it is not mistaken for it.
            inputs = self.first.basis @ torch.linalg.lstsq(pushed[on], output[on][:, None]).solution[:, 0]
            inputs = inputs / inputs[-1]
            if not bool(torch.isfinite(inputs).all()):
                break
            found = self._judged(inputs, direction, rows, usable)
            best = found if best is None or found.misfit < best.misfit else best
            if best.misfit < limits.settled:
                break
            reached = weight @ inputs[:-1] + bias
            sure = limits.sure * reached.square().mean().sqrt()
            off, on = reached < -sure, reached > sure
            if int((off & usable).sum()) >= rows.shape[1]:
                direction = least_said(rows[off & usable])
        return best if best is not None and best.misfit <= limits.misfit else None

    def _judged(self, inputs: Tensor, direction: Tensor, rows: Tensor, usable: Tensor) -> Candidate:
        """How well the network makes of `inputs` (I + 1,), with its best label, its error by `rows` and `direction`."""
        error = rows @ direction
        outputs = outputs_of(self.layers, inputs[None, :-1])
        classes = outputs[-1].shape[1]
        logit_errors = outputs[-1].softmax(1) - torch.eye(classes, dtype=error.dtype)
        whole = errors_of(self.layers, outputs, logit_errors)[0]
        cosines = functional.cosine_similarity(whole[:, usable], error[None, usable], dim=1).abs()
        label = int(cosines.argmax())
        return Candidate(inputs, direction, label, max(2.0 - 2.0 * float(cosines[label]), 0.0) ** 0.5)


def _trimmed_least(rows: Tensor, limits: SearchLimits) -> Tensor:
    """The unit vector that most of `rows` (N, R) say least of: least trimmed squares."""
    found, many = least_said(rows), max(int(limits.agree * len(rows)), rows.shape[1])
    for _ in range(limits.fits):
        found = least_said(rows[(rows @ found).abs().topk(min(many, len(rows)), largest=False).indices])
    return found
