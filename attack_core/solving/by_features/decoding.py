"""What the last convolution sees of images whose features are known exactly: more numbers, better told apart.

Features behind several convolutions, ReLUs and poolings leave fine structure all but open. The last convolution's input
has more numbers, one layer less in front of it, and is as exact (`attack_core.convolutions.masks`).
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from attack_core.base.types import Reconstruction
from attack_core.convolutions.calls import convolution_calls
from attack_core.convolutions.masks import DecodedInput, decoded_input
from attack_core.fc.layer_inputs import LayerInputs
from attack_core.gradients.tracing import couples_examples
from attack_core.inversion.descent.limits import SETTLING
from attack_core.signal.signal_model import knows_errors, sends_signs, withholds
from attack_core.solving.by_features.descents import inverter_of
from attack_core.solving.by_features.judging import checked_fit
from attack_core.solving.by_features.problem import Problem
from fl_core.threat.observation import Observation


def by_decoding(problem: Problem, start: Tensor) -> Reconstruction | None:
    """The images whose input to the last convolution is the one that its gradient tells; None where it tells none.

    Both are searched from `start` (B, C, S, S).
    """
    manner, read = problem.manner, problem.read
    if not manner.decode or manner.refine == "always":
        return None
    decoded = decoded_features(read, problem.observation, problem.model, start)
    if decoded is None:
        return None
    targets = decoded.values.flatten(1)
    inverter = replace(
        inverter_of(problem, manner.inversion.evaluations),
        layer=decoded.layer,
        targets=targets,
        stiffness=max(1.0, problem.pixels / targets.shape[1]) ** 2,
        unknown=None,
        ceiling=0.0,
        following=None,
        validation=None,
        limits=SETTLING,
    )
    count = problem.count
    images = inverter.invert([problem.observation.state] * count, start, [0.0] * count)
    prior = problem.start()
    note = (
        f"the input of convolution {decoded.layer}, {targets.shape[1]} numbers, from its weight's gradient and the "
        "errors behind its ReLU"
    )
    found = problem.result("analytic: features", images, [read.note(), note])
    return checked_fit(problem, found, prior, decoded=decoded)


def decoded_features(
    read: LayerInputs, observation: Observation, model: nn.Module, images: Tensor
) -> DecodedInput | None:
    """The last convolution's input for all images of `read`, looked for from `images` (B, C, S, S).

    None where it does not follow: several steps, images that stayed together, known errors, numbers that were withheld,
    BatchNorm in train mode, and what `decoded_input` names.
    """
    # Features that a defense cut are no matter: the errors behind the convolution are what the bias's gradient tells.
    errors_known = read.error == 0 and not withholds(observation, f"{read.head.first}.bias")
    alone = errors_known and read.shares.others is None and observation.steps == 1
    plain = not (read.head.pixels or read.head.random or couples_examples(model))
    if not (alone and plain) or knows_errors(observation) or sends_signs(observation):
        return None
    calls = convolution_calls(model, observation.state, observation.model.shape)
    if not calls or withholds(observation, f"{calls[-1].name}.weight"):
        return None
    call, first = calls[-1], read.head.first
    errors = read.shares.errors @ observation.state.parameters[f"{first}.weight"]
    gradient = read.gradients[f"{call.name}.weight"]
    return decoded_input(call, model, observation.state, gradient, (first, errors.detach()), images)
