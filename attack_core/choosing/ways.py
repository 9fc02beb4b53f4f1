"""What the ways other than features would go by on an observation; None where one is closed."""

from __future__ import annotations

from torch import nn

from attack_core.base.types import Reconstruction
from attack_core.choosing.limits import AUTO_LIMITS, AutoLimits
from attack_core.fc.head import solvable_head
from attack_core.signal.signal_model import vib_of_images
from attack_core.solving.by_convolutions.batch_inputs import BatchInputs, batch_inputs
from attack_core.solving.by_convolutions.deep_inputs import DEEP_LIMITS, DeepInputs, deep_inputs
from attack_core.solving.by_tokens.batch import batch_tokens
from attack_core.solving.by_tokens.one_image import solve_tokens
from attack_core.solving.by_tokens.solvable import solvable_tokens
from attack_core.tokens.batches import BatchTokens
from fl_core.base.errors import InputError
from fl_core.threat.observation import Observation


def by_tokens(observation: Observation, model: nn.Module) -> Reconstruction | None:
    """One image by a transformer's linear equations; None where they do not determine it (`solvable_tokens`)."""
    try:
        return solve_tokens(solvable_tokens(observation, model), observation, model)
    except InputError:
        return None


def tokens_of_batch(observation: Observation, model: nn.Module) -> tuple[BatchTokens, str] | None:
    """What a transformer's tokens tell of the images of a batch (`batch_tokens`); None where it is not enough."""
    if observation.examples == 1:
        return None
    try:
        return batch_tokens(observation, model)
    except InputError:
        return None


def batch_by_statistics(observation: Observation, model: nn.Module) -> BatchInputs | None:
    """What convolutions saw of each image of a batch whose statistics are seen; None where that does not follow."""
    if observation.examples == 1 or not observation.statistics:
        return None
    try:
        return batch_inputs(observation, model, enough=DEEP_LIMITS.of_batch)
    except InputError:
        return None


def deeper_than_features(
    observation: Observation, model: nn.Module, limits: AutoLimits = AUTO_LIMITS
) -> DeepInputs | None:
    """What convolutions see of the image, where the features are few for its pixels; None elsewhere."""
    if observation.examples > 1:
        return None
    try:
        first = solvable_head(model, observation).first
    except InputError:
        first = None
    if first is not None:
        features = observation.state.parameters[f"{first}.weight"].shape[1]
        enough = features >= limits.most_features * observation.model.shape.numbers
        if enough and vib_of_images(observation) is None:
            return None  # Whoever knows of a bottleneck sees no less than who does not, whose features are its code.
    try:
        return deep_inputs(observation, model)
    except InputError:
        return None
