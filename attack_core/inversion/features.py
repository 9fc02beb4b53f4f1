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
from attack_core.inversion.preconditioner import DctPreconditioner
from attack_core.inversion.refinement import Features, NextLayer, feature_mismatch
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

    `stiffness` and `report` are `Continuation.minimise`'s, the last three but one are those of `Features`. `validation`
    says for a single image with errors how far to go.
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

    def invert(self, states: Sequence[ModelState], start: Tensor, errors: Sequence[float]) -> Tensor:
        """Images (B, 3, S, S) at their own weights, from `start` of that shape, at expected mismatches `errors`."""
        measure = partial(DctPreconditioner.measured, generator=self.generator)
        found = []
        for target, state, image, error in zip(self.targets, states, start, errors, strict=True):
            prefix = self.prefix(state)
            descend = self.descent.minimise
            if self.validation is not None:
                descend = partial(self.descent.follow, residuals=self.validation)
            found.append(
                descend(
                    feature_mismatch(prefix, self.known(target[None])),
                    image[None],
                    measure=partial(measure, prefix),
                    stiffness=self.stiffness,
                    error=error,
                    report=self.report,
                )
            )
        return torch.cat(found)

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

    def prefix(self, state: ModelState) -> Prefix:
        """The network in front of the layer at these weights."""
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
    limits: DriftLimits = DRIFT_LIMITS,
) -> list[float]:
    """The expected mismatch of each image's features where nothing says at which weights they were taken."""
    return [limits.unknown * change for change in _whole_change(inverter, observation, images)]


def _whole_change(inverter: FeatureInverter, observation: Observation, images: Tensor) -> list[float]:
    """What the whole delta changes in the features of `images`, as `FeatureInverter.change` has it."""
    count = len(images)
    return inverter.change([observation.state] * count, [weights_along(observation, 1.0)] * count, images)
