"""Continuation: L-BFGS under an image prior whose weight falls in stages; the engine of the analytic attack.

The prior's weight is large while the images are far off and small at the end, as in graduated non-convexity (Blake and
Zisserman 1987). Where the data's error is known, it stops falling once the images explain the data as well as the truth
does: further stages would fit the error (Morozov's discrepancy principle). Where other data are at hand, they decide
where to stop (cross-validation, `Continuation.follow`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from attack_core.base.types import AttackFailed
from attack_core.evidence.cross_validation import Residuals, chosen, evidence
from attack_core.gradients.refusals import second_derivatives
from attack_core.inversion.preconditioner import DctPreconditioner
from attack_core.priors.colour_tv import colour_variation
from fl_core.base.types import Config, require

Mismatch = Callable[[Tensor], Tensor]
"""From images (B, 3, S, S) to how badly they explain the data, relative to the data's own square, ()."""
Measure = Callable[[Tensor], DctPreconditioner]
"""From images (B, 3, S, S) to the coordinates that suit the data there."""


class _Diverged(Exception):
    """A line search has left the numbers that are finite; the best point so far stands."""


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
    patience: int = 2
    """Cross-validation: how many stages in turn may be no better than the best before them. Not measured."""


CONTINUATION_LIMITS = ContinuationLimits()
"""The limits in force."""


@dataclass(frozen=True, kw_only=True)
class Continuation(Config):
    """Minimise mismatch + weight * variation, with `colour_variation` of `chroma` and `edge` as the prior.

    About `evaluations` of mismatch and gradient in all (a line search ends what it began), spread evenly over
    `stages` whose weight falls geometrically from `prior_start` to `prior_end`. `memory` is how many pairs L-BFGS
    keeps. The first stage moves pixels, later ones move coordinates in which the data are equally sensitive
    everywhere, where the caller can measure them.
    """

    evaluations: int = 600
    stages: int = 3
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
        report: Callable[[float], None] = lambda _: None,
        limits: ContinuationLimits = CONTINUATION_LIMITS,
    ) -> Tensor:
        """Images (B, 3, S, S) from `start`; `report` is told each evaluation's mismatch.

        `stiffness` multiplies the prior's weights. `error` is the mismatch that the truth itself is expected to have:
        above 0, the prior's weight starts as much higher, falls in as many more stages, and stops falling where the
        error is reached. Raises `AttackFailed` where the mismatch stops being finite.
        """
        weights = [stiffness * weight for weight in self._weights(error, limits)]
        images = start.detach()
        for stage, weight in enumerate(weights):
            coordinates = measure(images) if measure is not None and stage > 0 else None
            images, reached = self._descend(
                mismatch, images, coordinates, weight, self.evaluations // len(weights), report, limits
            )
            if reached < error:
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
            images, _ = self._descend(
                mismatch, path[-1], coordinates, stiffness * weight, count, report, limits
            )
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
        mismatch: Mismatch,
        start: Tensor,
        coordinates: DctPreconditioner | None,
        weight: float,
        evaluations: int,
        report: Callable[[float], None],
        limits: ContinuationLimits,
    ) -> tuple[Tensor, float]:
        """One stage: the images and their mismatch."""
        moved = torch.zeros_like(start, requires_grad=True)
        optimizer = torch.optim.LBFGS(
            [moved],
            max_iter=evaluations,
            max_eval=evaluations,
            history_size=self.memory,
            tolerance_grad=0.0,
            tolerance_change=0.0,
            line_search_fn="strong_wolfe",
        )
        best = (math.inf, math.nan, start)

        def evaluate() -> Tensor:
            nonlocal best
            optimizer.zero_grad(set_to_none=True)
            candidate = start + (moved if coordinates is None else coordinates.images(moved))
            data = mismatch(candidate)
            variation = colour_variation(candidate, chroma=self.chroma, edge=self.edge).sum()
            loss = limits.scale * (data + weight * variation)
            with second_derivatives():
                loss.backward()
            total, match = float(loss.detach()), float(data.detach())
            if not math.isfinite(total):
                raise _Diverged
            report(match)
            if total < best[0]:
                best = (total, match, candidate.detach())
            return loss

        try:
            optimizer.step(evaluate)
        except _Diverged:
            if math.isinf(best[0]):
                raise AttackFailed("The mismatch is not finite.") from None
        return best[2], best[1]
