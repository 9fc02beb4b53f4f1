"""How the matching loop is set to suit an observation."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from attack_core.fc.head import solvable_head
from attack_core.gradients.batchnorm import SeenStatistics
from attack_core.gradients.objectives import Signs
from attack_core.gradients.targets import gradient_estimate
from attack_core.local_sgd.simulation import Averaged, Simulated
from attack_core.matching.loop.features import FeatureTarget
from attack_core.matching.matching import Matching
from attack_core.signal.choices import Init
from attack_core.signal.signal_model import knows_errors, mixes_labels, sends_signs, vib_of_images, withholds
from fl_core.base.errors import InputError
from fl_core.models.finetuning.trainable import frozen_parameters
from fl_core.threat.observation import Observation


def suited_loop(
    loop: Matching,
    observation: Observation,
    model: nn.Module,
    *,
    feature_weight: float,
    statistics_weight: float,
) -> Matching:
    """`loop` as it suits the observation; the weights are those of what it knows and matches besides the gradient."""
    several = observation.steps > 1 and observation.clients == 1
    plain = loop.local == Averaged() and loop.images in (None, observation.examples)
    # A simulation knows nothing of draws; the mean gradient is taken at draws that are optimised.
    drawn = vib_of_images(observation) is not None
    local = Simulated() if several and plain and not drawn else loop.local
    known = observation.examples == 1 and knows_features(observation, model)
    weight = feature_weight if known else loop.feature_weight
    seen = SeenStatistics.of(observation, model) is not None
    statistics = statistics_weight if seen else loop.statistics_weight
    suited = replace(loop, statistics_weight=statistics)
    # What a known error, a draw, a mixture, withheld numbers or frozen parameters leave open, the prior decides:
    # the search starts from it.
    open_ends = knows_errors(observation) or drawn or mixes_labels(observation)
    withheld = any(withholds(observation, name) for name in observation.state.parameters)
    lossy = open_ends or withheld or bool(frozen_parameters(model))
    pixels = loop.parametrisation == "pixels"
    prior = lossy and observation.public_mean is not None and pixels
    init: Init = "mean" if prior else loop.init
    if sends_signs(observation):
        # Features are read off sizes, which signs have none of.
        return replace(suited, local=local, objective=Signs(), init=init, feature_weight=0.0)
    return replace(suited, local=local, feature_weight=weight, init=init)


def knows_features(observation: Observation, model: nn.Module) -> bool:
    """Whether the network has a fully connected end whose gradients determine one image's features."""
    try:
        solvable_head(model, observation)
        FeatureTarget.of(1.0, observation, model, gradient_estimate(observation))
    except InputError:
        return False
    return True
