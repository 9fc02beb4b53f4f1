"""The analytic attack's course from layer inputs to images: which of its ways goes where."""

from __future__ import annotations

import math

from attack_core.base.types import Reconstruction
from attack_core.certificates.inputs import certify_inputs
from attack_core.fc.head import PixelMap
from attack_core.gradients.targets import mean_progress, sees_images_again, weights_along
from attack_core.inversion.features import DRIFT_LIMITS, drift_errors
from attack_core.solving.by_features.decoding import by_decoding
from attack_core.solving.by_features.descents import images_along, inverter_of, refine
from attack_core.solving.by_features.judging import (
    certified,
    checked_fit,
    fitted_if_better,
    is_noise,
    judged,
    supported,
)
from attack_core.solving.by_features.problem import PRIOR, Problem


def solve(problem: Problem) -> Reconstruction:
    """Images from the layer inputs."""
    read, observation, count = problem.read, problem.observation, problem.count
    if math.isinf(read.error):
        note = f"the known noise hides the layer input: the answer is {problem.prior_name}"
        hidden = problem.result(PRIOR, problem.start(), [note], outcome="prior")
        return fitted_if_better(problem, hidden)
    seen = _pixel_map(problem) if read.complete or read.measured else None
    if seen is not None:
        images = seen.images(read.shares.inputs).view(-1, *observation.model.shape.size)
        found = problem.result("analytic: layer input", images, [read.note()])
        if read.measured:
            return supported(problem, found)
        return certified(found, certify_inputs(read, observation, unit=seen.least))
    if read.order is not None:
        return images_along(problem, read.order)
    start = problem.start()
    if is_noise(problem, start):
        note = (
            f"nearly half the energy of it lies below 0, where layer {read.head.first} sees nothing: it is noise, "
            f"and the answer is {problem.prior_name}"
        )
        return problem.result(PRIOR, start, [read.note(), note], outcome="prior")
    decoded = by_decoding(problem, start)
    if decoded is not None:
        return decoded
    notes = [read.note(), *problem.joined]
    inverter = inverter_of(problem, problem.manner.inversion.evaluations)
    # Over the square of an estimate that the error is part of.
    errors = [read.error / (1.0 + read.error)] * count
    state = observation.state
    if count > 1 and sees_images_again(observation):
        notes.append("each image was seen several times: its mean features, at the steps' mean weights")
        state = weights_along(observation, mean_progress(observation))
        drift = drift_errors(inverter, observation, start, DRIFT_LIMITS.mean)
        errors = [max(pair) for pair in zip(errors, drift, strict=True)]
    elif observation.steps > 1:
        notes.append("the weights moved meanwhile and nothing tells how: features taken where they started")
        drift = drift_errors(inverter, observation, start, DRIFT_LIMITS.unknown)
        errors = [max(pair) for pair in zip(errors, drift, strict=True)]
    images = inverter.invert([state] * count, start, errors)
    if read.error:
        return judged(problem, images, start, notes)
    # What could not be decoded from the start often can from here, where most of a ReLU's zeros are right.
    decoded = by_decoding(problem, images)
    if decoded is not None:
        return decoded
    found = (
        refine(problem, inverter, images, notes)
        if problem.refined
        else problem.result("analytic: features", images, notes)
    )
    return checked_fit(problem, found, start)


def _pixel_map(problem: Problem) -> PixelMap | None:
    """How the image enters the layer, where it does so pixel by pixel."""
    head, observation = problem.read.head, problem.observation
    if head.random:
        return None
    return PixelMap.of(problem.model, observation.state, head.first, observation.model.shape)
