"""Continuation: L-BFGS under an image prior whose weight falls in stages; the engine of the analytic attack.

The prior's weight is large while the images are far off and small at the end, as in graduated non-convexity (Blake and
Zisserman 1987). Where the data's error is known, it stops falling once the images explain the data as well as the truth
does: further stages would fit the error (Morozov's discrepancy principle). Where other data are at hand, they decide
where to stop (cross-validation, `Continuation.follow`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Self

import torch
from torch import Tensor

from attack_core.base.search import Found
from attack_core.base.types import AttackFailed
from attack_core.evidence.cross_validation import Residuals, chosen, evidence
from attack_core.inversion.lbfgs import Pairs, Value, search
from attack_core.inversion.preconditioner import Coordinates
from attack_core.inversion.together import Descent, Point, look, run
from attack_core.priors.colour_tv import colour_variation
from fl_core.base.decibels import TINY
from fl_core.base.types import Config, InUnits, require

Mismatch = Callable[[Tensor], Tensor]
"""From images (B, 3, S, S) to how badly they explain the data, relative to the data's own square, ()."""
EachMismatch = Callable[[Tensor, Sequence[int]], Tensor]
"""From images (n, 3, S, S) and which of the problems each is for to how badly each explains its own data, (n,)."""
Penalty = Callable[[Tensor], Tensor]
"""From images (n, 3, S, S) to how unlikely each is, (n,)."""
Measure = Callable[[Tensor], Coordinates]
"""From images (B, 3, S, S) to the coordinates that suit the data there."""


@dataclass(frozen=True, kw_only=True)
class ContinuationLimits:
    """How fast the prior's weight falls where the data's error is known, and where the search stops.

    Fixed on synthetic faces and the CelebA sample (docs/attacks.md, Which pictures fixed the constants).
    """

    scale: float = 1e6
    """What the loss is multiplied by before L-BFGS sees it.

    The library compares curvatures with absolute bounds; mismatches of 1e-9 would stall it.
    """
    start_over_error: float = 1e-2
    """The discrepancy principle: the first prior's weight over the expected mismatch, where that is more than
    `prior_start`. Not measured against other values."""
    largest_step: float = 10.0
    """The discrepancy principle: by which factor at most the prior's weight falls from stage to stage.

    As many stages as that takes, and no more: six for every known error left too few evaluations for each. Measured on
    cnn64, 64 pixels, 4 victims, noise of 1e-5: 40.2 dB, 39.1 with six stages.
    """
    validated_start_over_error: float = 2e-3
    """Cross-validation: the first prior's weight over the expected mismatch. Not measured against other values."""
    validated_step: float = math.sqrt(10.0)
    """Cross-validation: the factor by which the prior's weight falls from stage to stage.

    Smaller steps with fewer evaluations each were measured: 2 dB less, however fine the steps (docs/decisions,
    0051).
    """
    validated_budget: int = 4
    """Cross-validation: by how many stages at most the evaluations are divided.

    With more, images stay far from what their prior allows: 18 evaluations a stage instead of 60 cost 2 dB
    (docs/decisions, 0051). About seven stages run.
    """
    carried: int = 20
    """How many pairs of steps and gradient changes L-BFGS takes over from the stages before.

    Only the prior's weight changes between stages, so the data's curvature stays what it was, near the images. Pairs
    from further away mislead behind many layers: on pictures of CIFAR-10's training split `convnet` has 73 and 72 dB
    with none, 72 with 20, 57 and 63 with 25, 41 and 51 with 40, and `vgg11` has 28 with none, 76 with 20, 46 with 40.
    On cnn64 20 and 40 are within 0.3 dB (eight CelebA pictures of the validation split). Cross-validation takes none
    over: each of its stages is judged as one that began anew.
    """
    together: int = 16
    """How many images that have each a problem of their own are evaluated in one batch."""
    pair_bytes: float = 2.0**30
    """What the pairs of such a batch may take of memory; where that is too little, fewer images are in it."""
    far: float = 1.0
    """A mismatch above this is further from the data than an answer of nothing at all; such a search may give up."""
    still: int = 16
    """It gives up where this many steps did not lower the mismatch by `still_share`."""
    still_share: float = 0.01
    """See `still`. On noise in a gradient's place, which no image explains, a search ends after about 35 evaluations
    of 240, with a mismatch within 2% of what all of them reach (cnn64, 64 pixels, two CelebA faces). On those faces'
    gradients the mismatch starts at 0.5, below `far`."""
    settling: int | None = None
    """After so many steps a stage ends that they did not take any further (`settled`). None: every stage goes on.

    A stage that ends leaves its evaluations to the next ones, and the last stage takes no more than it needs. Only for
    data that are exact and determine the image: elsewhere a mismatch that stands still may fall again.
    """
    settled_between: float = 0.0
    """The share of the mismatch that they have to take away before the last stage, else its weaker prior is next."""
    settled_at_end: float = 0.0
    """The same share in the last stage, where nothing follows."""
    patience: int = 2
    """Cross-validation: how many stages in turn may be no better than the best before them. Not measured."""

    def hopeless(self, seen: Sequence[float]) -> bool:
        """Whether the last mismatches of a search, the newest last, say that it will explain nothing."""
        enough = len(seen) > self.still and seen[-1] > self.far
        return enough and seen[-1] > (1.0 - self.still_share) * seen[-1 - self.still]

    def settled(self, seen: Sequence[float], *, last: bool) -> bool:
        """Whether they say that a stage, the `last` one or not, has come to about what its prior allows."""
        if self.settling is None or len(seen) <= self.settling:
            return False
        share = self.settled_at_end if last else self.settled_between
        return seen[-1] > (1.0 - share) * seen[-1 - self.settling]


CONTINUATION_LIMITS = ContinuationLimits()
"""The limits in force."""
NOTHING_CARRIED = ContinuationLimits(carried=0)
"""Those where refinement follows. There pairs of earlier stages made the one golden trial 0.9 dB worse, with 0.2 dB and
more of chance: each unit that switches bends its loss anew."""

FEW_CARRIED = ContinuationLimits(carried=5)
"""Those of inputs of deep convolutions. With 160 evaluations `convnet` has on five pictures of CIFAR-10's training
split 67 to 77 dB with none and with 5, and on one of them 50 in the place of 67 with 20."""

SETTLING = ContinuationLimits(settling=8, settled_between=0.2, settled_at_end=0.005)
"""Those where a convolution's input is known exactly.

Three synthetic faces of a series of their own and three CelebA pictures of the validation split, cnn64 at 64 pixels,
240 evaluations: 190 are left of 244, and the mean is 62.94 dB in the place of 62.98 (each within 0.23). With 0.01 at
the end 181 and 62.87 dB, with 0.3 and 0.02 167 and 62.70, with 0.5 and 0.02 160 and 62.21 (one face lost 3 dB).
"""


@dataclass(frozen=True, kw_only=True)
class Continuation(Config):
    """Minimise mismatch + weight * prior, which is `colour_variation` of `chroma` and `edge`, or a trained one.

    About `evaluations` of mismatch and gradient in all (a line search ends what it began), spread evenly over
    `stages` whose weight falls geometrically from `prior_start` to `prior_end`. `memory` is how many pairs L-BFGS
    keeps. The first stage moves pixels, later ones move coordinates in which the data are equally sensitive
    everywhere, where the caller can measure them.
    """

    evaluations: Annotated[int, InUnits("evaluations")] = 600
    stages: Annotated[int, InUnits("stages")] = 3
    prior_start: float = 1e-8
    prior_end: float = 1e-9
    chroma: float = 3.0
    edge: float = 0.1
    memory: int = 200

    def __post_init__(self) -> None:
        require(self.stages >= 1, self, "stages", "at least 1")
        require(self.evaluations >= self.stages, self, "evaluations", f"at least stages = {self.stages}")
        require(0 < self.prior_start < math.inf, self, "prior_start", "more than 0")
        require(
            0 < self.prior_end <= self.prior_start,
            self,
            "prior_end",
            f"more than 0, at most prior_start = {self.prior_start}",
        )
        require(self.chroma >= 0, self, "chroma", "at least 0")
        require(self.edge > 0, self, "edge", "more than 0")
        require(self.memory >= 1, self, "memory", "at least 1")

    def shortened(self, share: float) -> Self:
        """The same with about this `share`, in (0, 1], of its evaluations, and no fewer than ten for each stage."""
        fewer = max(10 * self.stages, math.ceil(self.evaluations * share))
        return replace(self, evaluations=min(self.evaluations, fewer))

    def minimise(
        self,
        mismatch: Mismatch,
        start: Tensor,
        *,
        measure: Measure | None = None,
        stiffness: float = 1.0,
        error: float = 0.0,
        prior: Penalty | None = None,
        report: Callable[[float], None] = lambda _: None,
        limits: ContinuationLimits = CONTINUATION_LIMITS,
    ) -> Tensor:
        """Images (B, 3, S, S) from `start`; `report` is told each evaluation's mismatch.

        `prior` takes the place of `colour_variation`. `stiffness` multiplies the prior's weights. `error` is the
        mismatch that the truth itself is expected to have: above 0, the prior's weight starts as much higher, falls in
        as many more stages, and stops falling where the error is reached. Raises `AttackFailed` where the mismatch
        stops being finite.
        """
        path = self._stages(start, measure, stiffness, error, report, limits)
        return self._alone(path, mismatch, prior)

    def minimise_each(
        self,
        mismatch: EachMismatch,
        start: Tensor,
        *,
        measures: Sequence[Measure],
        stiffness: float,
        errors: Sequence[float],
        prior: Penalty | None = None,
        report: Callable[[float], None],
        limits: ContinuationLimits = CONTINUATION_LIMITS,
    ) -> Tensor:
        """Images (B, 3, S, S), each found alone as `minimise` finds it, from `start` (B, 3, S, S).

        The mismatch is evaluated for several images at once; each has its own steps, stages and end. `measures` and
        `errors` are theirs. Raises `AttackFailed` where one of the mismatches stops being finite.
        """
        paths = [
            self._stages(image[None], measure, stiffness, error, report, limits)
            for image, measure, error in zip(start, measures, errors, strict=True)
        ]
        pairs = 4 * min(self.memory, self.evaluations) * start[0].numel() * start.element_size()
        together = max(1, min(limits.together, int(limits.pair_bytes / pairs)))
        found: list[Tensor] = []
        for first in range(0, len(paths), together):
            answer = partial(self._answer, mismatch, prior, first)
            found += run(paths[first : first + together], answer)
        return torch.cat(found)

    def _answer(
        self,
        mismatch: EachMismatch,
        prior: Penalty | None,
        first: int,
        images: Tensor,
        waiting: Sequence[int],
    ) -> list[Point]:
        """What the problems `first` + `waiting` find at their images, (n, C, H, W)."""
        problems = [first + number for number in waiting]
        penalty = prior or self._variation
        return look(lambda images: mismatch(images, problems), penalty, images, len(problems))

    def _alone(self, path: Descent[Found], mismatch: Mismatch, prior: Penalty | None) -> Found:
        """The answer of a search that has no others beside it."""
        penalty = prior or self._variation
        (found,) = run([path], lambda images, _: look(mismatch, penalty, images, 1))
        return found

    def _variation(self, images: Tensor) -> Tensor:
        """The prior of each of the images (n, C, H, W), (n,)."""
        return colour_variation(images, chroma=self.chroma, edge=self.edge)

    def _stages(
        self,
        start: Tensor,
        measure: Measure | None,
        stiffness: float,
        error: float,
        report: Callable[[float], None],
        limits: ContinuationLimits,
    ) -> Descent[Tensor]:
        """The search of `minimise`."""
        weights = [stiffness * weight for weight in self._weights(error, limits)]
        images = start.detach()
        moves: deque[Move] = deque(maxlen=limits.carried)
        left = self.evaluations // len(weights) * len(weights)
        for stage, weight in enumerate(weights):
            coordinates = measure(images) if measure is not None and stage > 0 else None
            stages = len(weights) - stage
            count = left // stages
            reached = yield from self._descend(
                images, coordinates, weight, count, report, limits, moves, last=stages == 1
            )
            images = reached.images
            left -= count if limits.settling is None else min(reached.used, count)
            if reached.match < error or reached.hopeless:
                break
        return images

    def follow(
        self,
        mismatch: Mismatch,
        start: Tensor,
        residuals: Residuals,
        *,
        measure: Measure | None = None,
        stiffness: float = 1.0,
        error: float,
        prior: Penalty | None = None,
        report: Callable[[float], None] = lambda _: None,
        limits: ContinuationLimits = CONTINUATION_LIMITS,
    ) -> Tensor:
        """Images (B, 3, S, S) of the stage that cross-validation chooses; `start` where it supports none.

        As `minimise` for a known `error`, but the mismatch ends no stage: the stages end soon after the evidence in
        `residuals` stops growing. A stage takes a quarter of the evaluations, or more where there are fewer stages.
        """
        strongest = max(self.prior_start, limits.validated_start_over_error * error)
        stages = math.ceil(math.log(strongest / self.prior_end, limits.validated_step) + 1e-9) + 1
        count = max(self.evaluations // min(stages, limits.validated_budget), 1)
        path, left, found = [start], [residuals(start)], [0.0]
        for stage in range(stages):
            best = found.index(max(found))
            if 0 < best <= stage - limits.patience:
                break  # Before any evidence has been found the way goes on: faint signals show late.
            coordinates = measure(path[-1]) if measure is not None and stage > 0 else None
            weight = max(strongest / limits.validated_step**stage, self.prior_end)
            nothing: deque[Move] = deque(maxlen=0)
            stage_alone = self._descend(
                path[-1], coordinates, stiffness * weight, count, report, limits, nothing
            )
            images = self._alone(stage_alone, mismatch, prior).images
            path.append(images)
            left.append(residuals(images))
            found.append(evidence(left[0], left[-1]))
        return path[chosen(left)]

    def _weights(self, error: float, limits: ContinuationLimits) -> list[float]:
        """One prior weight for each stage."""
        start, stages = self.prior_start, self.stages
        if error > 0:
            start = max(start, error * limits.start_over_error)
            steps = math.ceil(math.log(start / self.prior_end, limits.largest_step) - 1e-9)
            stages = min(self.evaluations, max(stages, steps + 1))
        if stages == 1:
            return [self.prior_end]
        ratio = (self.prior_end / start) ** (1.0 / (stages - 1))
        return [start * ratio**i for i in range(stages)]

    def _descend(
        self,
        start: Tensor,
        coordinates: Coordinates | None,
        weight: float,
        evaluations: int,
        report: Callable[[float], None],
        limits: ContinuationLimits,
        moves: deque[Move],
        *,
        last: bool = False,
    ) -> Descent[_Reached]:
        """One stage, the `last` one or not, as a part of a search.

        `moves` are the last of stages before; this one's are added.
        """
        axes = _Axes(coordinates, start)

        def evaluate(moved: Tensor) -> Descent[Value[Point]]:
            point = yield start + axes.images(moved)
            total = limits.scale * (point.match + weight * point.variation)
            if math.isfinite(total):
                report(point.match)
            gradient = limits.scale * (point.data + weight * point.prior)
            return Value(total if math.isfinite(total) else math.inf, axes.gradient(gradient), point)

        pairs = Pairs(self.memory)
        for move in moves:
            pairs.add(axes.scaled(move.step), axes.gradient(limits.scale * (move.data + weight * move.prior)))
        moved = torch.zeros(start.numel(), device=start.device)
        value, used = (yield from evaluate(moved)), 1
        if math.isinf(value.loss):
            raise AttackFailed("The mismatch is not finite.")
        seen = deque([value.note.match], maxlen=limits.still + 1)
        while used < evaluations and not (limits.hopeless(seen) or limits.settled(seen, last=last)):
            direction = pairs.direction(value.gradient)
            if not float(direction @ value.gradient) < 0.0:
                pairs, direction = Pairs(self.memory), -value.gradient
            first = 1.0 if len(pairs) else min(1.0, 1.0 / max(float(value.gradient.abs().sum()), TINY))
            step, after, count = yield from search(evaluate, moved, value, direction, first)
            used += count
            if not step:
                if not len(pairs):
                    break
                pairs = Pairs(self.memory)
                continue
            pairs.add(step * direction, after.gradient - value.gradient)
            old, new = value.note, after.note
            moves.append(Move(new.images - old.images, new.data - old.data, new.prior - old.prior))
            moved, value = moved + step * direction, after
            seen.append(new.match)
        return _Reached(value.note.images, value.note.match, limits.hopeless(seen), used)


@dataclass(frozen=True)
class _Reached:
    """Where a stage ended: the images, their mismatch, whether going on is `hopeless`, and the evaluations `used`."""

    images: Tensor
    match: float
    hopeless: bool
    used: int


@dataclass(frozen=True)
class Move:
    """A step in pixels, with the changes of the mismatch's and of the prior's gradient along it, (B, C, H, W) each."""

    step: Tensor
    data: Tensor
    prior: Tensor


@dataclass(frozen=True)
class _Axes:
    """The unknowns of a stage as one vector (n,): pixels, or coordinates."""

    coordinates: Coordinates | None
    like: Tensor

    def images(self, moved: Tensor) -> Tensor:
        """Images (B, C, H, W) of a vector."""
        shaped = moved.view(self.like.shape)
        return shaped.clone() if self.coordinates is None else self.coordinates.images(shaped)

    def gradient(self, images: Tensor) -> Tensor:
        """The vector of a gradient by images."""
        return (images if self.coordinates is None else self.coordinates.gradient(images)).flatten()

    def scaled(self, images: Tensor) -> Tensor:
        """The vector of images: the inverse of `images`."""
        return (images if self.coordinates is None else self.coordinates.scaled(images)).flatten()
