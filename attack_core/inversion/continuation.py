"""Continuation: L-BFGS under an image prior whose weight falls in stages; the engine of the analytic attack.

The prior's weight is large while the images are far off and small at the end, as in graduated non-convexity (Blake and
Zisserman 1987). Where the data's error is known, it stops falling once the images explain the data as well as the truth
does: further stages would fit the error (Morozov's discrepancy principle). Where other data are at hand, they decide
where to stop (cross-validation, `Continuation.follow`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Self

from attack_core.inversion.descent.given import EachMismatch, Measure, Mismatch, Penalty
from attack_core.inversion.descent.limits import CONTINUATION_LIMITS, ContinuationLimits
from fl_core.base.types import Config, InUnits, require

if TYPE_CHECKING:
    from torch import Tensor

    from attack_core.evidence.cross_validation import Residuals
    from attack_core.inversion.descent.stages import Stages


@dataclass(frozen=True, kw_only=True)
class Continuation(Config):
    """Minimise mismatch + weight * prior, which is `colour_variation` of `chroma` and `edge`, or a trained one.

    About `evaluations` of mismatch and gradient in all (a line search ends what it began), spread evenly over
    `stages` whose weight falls geometrically from `prior_start` to `prior_end`. `memory` is how many pairs L-BFGS
    keeps. The first stage moves pixels; later ones have a preconditioner, where the caller can measure what the
    network passes strongly and what weakly.
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
        from attack_core.inversion.descent.stages import alone

        stages = self._stages(report, limits)
        path = stages.path(start, self._weights(stiffness, error, limits), measure=measure, error=error)
        return alone(path, mismatch, self._penalty(prior))

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
        from attack_core.inversion.descent.stages import together

        stages = self._stages(report, limits)
        paths = [
            stages.path(image[None], self._weights(stiffness, error, limits), measure=measure, error=error)
            for image, measure, error in zip(start, measures, errors, strict=True)
        ]
        pairs = 4 * min(self.memory, self.evaluations) * start[0].numel() * start.element_size()
        most = max(1, min(limits.together, int(limits.pair_bytes / pairs)))
        return together(paths, mismatch, self._penalty(prior), most)

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
        weights = [
            stiffness * max(strongest / limits.validated_step**stage, self.prior_end)
            for stage in range(stages)
        ]
        return self._stages(report, limits).followed(
            start, weights, count, mismatch, self._penalty(prior), residuals, measure
        )

    def _weights(self, stiffness: float, error: float, limits: ContinuationLimits) -> list[float]:
        """One prior weight for each stage."""
        start, stages = self.prior_start, self.stages
        if error > 0:
            start = max(start, error * limits.start_over_error)
            steps = math.ceil(math.log(start / self.prior_end, limits.largest_step) - 1e-9)
            stages = min(self.evaluations, max(stages, steps + 1))
        if stages == 1:
            return [stiffness * self.prior_end]
        ratio = (self.prior_end / start) ** (1.0 / (stages - 1))
        return [stiffness * (start * ratio**i) for i in range(stages)]

    def _stages(self, report: Callable[[float], None], limits: ContinuationLimits) -> Stages:
        """What all stages of a continuation share."""
        from attack_core.inversion.descent.stages import Stages

        return Stages(evaluations=self.evaluations, memory=self.memory, report=report, limits=limits)

    def _penalty(self, prior: Penalty | None) -> Penalty:
        """The `prior`, or `colour_variation` where there is none."""
        from attack_core.priors.colour_tv import colour_variation

        return prior or partial(colour_variation, chroma=self.chroma, edge=self.edge)
