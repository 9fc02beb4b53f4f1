"""Images from the inputs of a fully connected layer: at known weights, or along a path of weights that is not known.

For a weight delta over several steps the inputs of every image are known, but the convolutions in front moved between
the images. Weights and images then follow from each other in turn: weights that progress evenly give images, training
on these gives better weights, and so on. Until the last pass the features are wrong by about what the weights still
change, and the descent is told so, or it would fit the error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from attack_core.evidence.cross_validation import Residuals
from attack_core.fc.head import Prefix
from attack_core.fc.step_order import Order, even_states, simulate
from attack_core.gradients.targets import weights_along
from attack_core.inversion.continuation import Continuation
from attack_core.inversion.descent.gains import measured_gain
from attack_core.inversion.descent.given import EachMismatch, Penalty
from attack_core.inversion.descent.limits import CONTINUATION_LIMITS, ContinuationLimits
from attack_core.inversion.refinement import Features, NextLayer, feature_mismatch
from attack_core.inversion.rounds import Rounds
from fl_core.base.rng import drawn_generators
from fl_core.base.types import ModelState
from fl_core.threat.observation import Observation


@dataclass(frozen=True, kw_only=True)
class DriftLimits:
    """How wrong features are taken to be because the weights moved, and what early passes may cost.

    Shares are of the squared change of an image's features, and expected mismatches of the descent. Chosen on synthetic
    faces and the CelebA sample with four local steps; only the whole was measured (docs/decisions, 0025: 25 to 28 dB
    at the weights halfway with the error fitted, 45 dB in turn with the images), no field against other values.
    """

    unknown: float = 0.3
    """The share of the change from start to end that stays open where nothing tells when an image was seen."""
    mean: float = 0.1
    """The share of the change from start to end by which mean inputs miss those at the mean weights.

    For images that were seen several times. On one batch of 8 CIFAR-10 pictures of the train split, two passes,
    halfway along the delta: 0.01 28.2 dB, 0.03 28.5, 0.1 31.9, 0.3 31.0.
    """
    uneven: float = 0.03
    """The same where the step is known and the weights are taken to progress evenly."""
    unsettled: float = 0.1
    """The share of the change from one pass to the next that stays open after the simulation."""
    short: int = 3
    """Passes before the last one take one in so many evaluations: their weights are not final."""


DRIFT_LIMITS = DriftLimits()
"""The limits in force."""


@dataclass(frozen=True, kw_only=True)
class FeatureInverter:
    """Finds the images whose inputs to `layer` are `targets` (B, I), each alone.

    `stiffness`, `report` and `limits` are `Continuation.minimise`'s, `unknown`, `ceiling` and `following` are those of
    `Features`. `validation` says for a single image with errors how far to go. `rounds` are those that `targets` are
    the mean of, where there are several; their weights then take the place of those that `prefix` is asked for.
    `prior` is a trained one, where there is one.
    """

    model: nn.Module
    layer: str
    targets: Tensor
    descent: Continuation
    stiffness: float
    generator: torch.Generator
    report: Callable[[float], None]
    unknown: Tensor | None = None
    ceiling: float = 0.0
    following: NextLayer | None = None
    validation: Residuals | None = None
    rounds: Rounds | None = None
    limits: ContinuationLimits = CONTINUATION_LIMITS
    prior: Penalty | None = None

    def invert(self, states: Sequence[ModelState], start: Tensor, errors: Sequence[float]) -> Tensor:
        """Images (B, 3, S, S) at their own weights, from `start` of that shape, at expected mismatches `errors`."""
        if self.validation is not None:
            return self._validated(self.validation, states, start, errors)
        found = torch.empty_like(start)
        for state in {id(state): state for state in states}.values():
            same = [number for number, its in enumerate(states) if its is state]
            prefix = self.prefix(state)
            found[same] = self.descent.minimise_each(
                self._mismatch(prefix, same),
                start[same],
                measures=[partial(measured_gain, prefix, generator=own) for own in self._own(len(same))],
                stiffness=self.stiffness,
                errors=[errors[number] for number in same],
                prior=self.prior,
                report=self.report,
                limits=self.limits,
            )
        return found

    def _mismatch(self, prefix: Callable[[Tensor], Tensor], numbers: Sequence[int]) -> EachMismatch:
        """What the images of these targets miss, each alone."""

        def missed(images: Tensor, which: Sequence[int]) -> Tensor:
            targets = self.targets[[numbers[each] for each in which]]
            return self.known(targets).missed_each(prefix(images))

        return missed

    def _own(self, count: int) -> list[torch.Generator]:
        """A generator for each of so many images, so that what one draws depends on no other."""
        if count == 1:
            return [self.generator]
        return drawn_generators(self.generator, count)

    def _validated(
        self, residuals: Residuals, states: Sequence[ModelState], start: Tensor, errors: Sequence[float]
    ) -> Tensor:
        """The single image, where cross-validation says how far to go."""
        (state,), (error,) = states, errors
        prefix = self.prefix(state)
        return self.descent.follow(
            feature_mismatch(prefix, self.known(self.targets)),
            start,
            residuals=residuals,
            measure=partial(measured_gain, prefix, generator=self.generator),
            stiffness=self.stiffness,
            error=error,
            prior=self.prior,
            report=self.report,
            limits=self.limits,
        )

    def known(self, inputs: Tensor) -> Features:
        """What is known of these inputs (B, I) of the layer."""
        return Features(inputs, self.unknown, self.ceiling, self.following)

    @torch.no_grad()
    def change(
        self, before: Sequence[ModelState], after: Sequence[ModelState], images: Tensor
    ) -> list[float]:
        """By how much each image's features differ between two weights: squares over the target's square."""
        each = zip(before, after, images, self.targets, strict=True)
        return [
            float((self.prefix(new)(image[None]) - self.prefix(old)(image[None])).square().sum())
            / float(target.square().sum())
            for old, new, image, target in each
        ]

    def prefix(self, state: ModelState) -> Callable[[Tensor], Tensor]:
        """The network in front of the layer at these weights, or its mean over `rounds`."""
        if self.rounds is not None:
            return self.rounds.prefix(self.model, self.layer)
        return Prefix(self.model, state, self.layer)


def along_path(
    inverter: FeatureInverter,
    observation: Observation,
    order: Order,
    labels: Tensor,
    start: Tensor,
    passes: int,
    limits: DriftLimits = DRIFT_LIMITS,
) -> tuple[Tensor, float]:
    """Images (B, 3, S, S) and how much of the delta they miss, from `start` (1, 3, S, S).

    `order` says which step saw which image, `labels` (B,) are theirs.
    """
    count = len(labels)
    steps = [order.step_of(image) for image in range(count)]
    images = start.expand(count, -1, -1, -1)
    open_share = [limits.uneven * change for change in _whole_change(inverter, observation, images)]
    path: Sequence[ModelState] = even_states(observation)
    descent = inverter.descent
    short = replace(descent, evaluations=max(descent.stages, descent.evaluations // limits.short))
    own = [path[step] for step in steps]
    for _ in range(passes - 1):
        images = replace(inverter, descent=short).invert(own, images, open_share).clamp(-1.0, 1.0)
        before, path = own, simulate(observation, inverter.model, images, labels, order).states
        own = [path[step] for step in steps]
        open_share = [limits.unsettled * change for change in inverter.change(before, own, images)]
    final = [0.0] * count if passes > 1 else open_share
    images = inverter.invert(own, images, final).clamp(-1.0, 1.0)
    return images, simulate(observation, inverter.model, images, labels, order).missed


def drift_errors(
    inverter: FeatureInverter,
    observation: Observation,
    images: Tensor,
    share: float,
) -> list[float]:
    """The expected mismatch of each image's features, where a `share` of their change along the delta stays open."""
    return [share * change for change in _whole_change(inverter, observation, images)]


def _whole_change(inverter: FeatureInverter, observation: Observation, images: Tensor) -> list[float]:
    """What the whole delta changes in the features of `images`, as `FeatureInverter.change` has it."""
    count = len(images)
    return inverter.change([observation.state] * count, [weights_along(observation, 1.0)] * count, images)
