"""What speaks against the analytic attack, and against any: the reasons that `auto` gives."""

from __future__ import annotations

from torch import nn

from attack_core.choosing.limits import AUTO_LIMITS, AutoLimits
from attack_core.evidence.likelihood_ratio import EVIDENCE_LIMITS, EvidenceLimits
from attack_core.fc.cone import rectified_inputs
from attack_core.fc.head import solvable_head
from attack_core.fc.peeling import PEELING_LIMITS, can_peel
from attack_core.gradients.targets import sees_images_again
from attack_core.separation.inputs import follows_from_damaged
from attack_core.signal.signal_model import (
    cut_columns,
    knows_errors,
    mixes_labels,
    rounds_fairly,
    sends_signs,
    withholds,
)
from fl_core.base.errors import InputError
from fl_core.models.finetuning.trainable import frozen_parameters
from fl_core.threat.observation import Observation


def says_few_features(
    observation: Observation, model: nn.Module, limits: EvidenceLimits = EVIDENCE_LIMITS
) -> str | None:
    """Why the answer is the prior where clients train a fully connected end alone; None where it sees enough."""
    if not frozen_parameters(model):
        return None
    try:
        head = solvable_head(model, observation)
    except InputError:
        return None
    features = observation.state.parameters[f"{head.first}.weight"].shape[1]
    pixels = observation.model.shape.numbers
    if head.in_front(observation.state.parameters) or features >= limits.least_numbers * pixels:
        return None
    alone = f"clients train nothing in front of layer {head.first}"
    return f"{alone}, whose {features} features hardly limit {pixels} pixels"


def obstacle_to_analytic(
    observation: Observation, model: nn.Module, limits: AutoLimits = AUTO_LIMITS
) -> str | None:
    """Why the analytic attack would not do well on this observation; None where it should."""
    pixels, images = observation.model.shape.numbers, observation.examples
    try:
        head = solvable_head(model, observation)
    except InputError as reason:
        return str(reason).removesuffix(".")
    if sends_signs(observation) and not rounds_fairly(observation):
        return "signs of numbers tell nothing of their sizes"
    features = observation.state.parameters[f"{head.first}.weight"].shape[1]
    if features < limits.least_features * pixels:
        return f"layer {head.first} has {features} features for {pixels} pixels"
    cut = cut_columns(observation, f"{head.first}.weight")
    if cut and features - cut < limits.least_uncut * pixels:
        return f"{features - cut} features of layer {head.first} are left for {pixels} pixels"
    if images == 1:
        return None
    if mixes_labels(observation) and observation.steps > 1:
        return f"labels were mixed, which hides how the weights moved between {images} images"
    if head.random and observation.steps > 1:
        return f"the bottleneck's noise hides how the weights moved between {images} images"
    if follows_from_damaged(observation, head):
        return None  # Noise, numbers withheld and steps are no obstacle there.
    unmixed = rectified_inputs(model, observation.state, head, observation.model.shape)
    alone = unmixed and images < observation.model.outputs and features >= limits.most_features * pixels
    if not (head.rectified or alone):
        return f"no ReLU between fully connected layers tells {images} images apart"
    single = observation.steps == 1 and can_peel(head)
    units = len(observation.state.parameters[f"{head.first}.bias"])
    if (
        images > limits.most_images
        and not unmixed
        and not (single and units >= PEELING_LIMITS.least_units * images)
    ):
        narrow = f" by {units} units of layer {head.first}" if single else ""
        return f"{images} images are too many to tell apart{narrow}"
    if withholds(observation, f"{head.first}.weight"):
        return f"numbers were withheld, so {images} images do not come apart"
    if knows_errors(observation):
        return f"the known noise hides which units {images} images leave off"
    if sees_images_again(observation) and not unmixed:
        return f"{observation.steps} local steps see each of {images} images more than once"
    return None
