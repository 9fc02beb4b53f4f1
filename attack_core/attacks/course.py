"""The course that `auto` takes on an observation: one way after the other, and what is made of the answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

from attack_core.attacks.analytic import Analytic
from attack_core.attacks.convolution_inversion import ConvolutionInversion
from attack_core.attacks.token_inversion import TokenInversion
from attack_core.base.evaluations import with_cost_of
from attack_core.base.search import Search
from attack_core.base.types import Progress, Reconstruction
from attack_core.choosing.limits import AUTO_LIMITS, AutoLimits
from attack_core.choosing.obstacles import obstacle_to_analytic, says_few_features
from attack_core.choosing.ways import batch_by_statistics, by_tokens, deeper_than_features, tokens_of_batch
from attack_core.convolutions.calls import convolution_calls
from attack_core.evidence.likelihood_ratio import (
    explains_more,
    prior_answer,
    prior_instead,
    says_nothing,
    supported_or_prior,
    too_weak,
)
from attack_core.fc.layer_inputs import magnitude
from attack_core.gradients.targets import check_observation
from attack_core.matching.matching import Matching, at_the_mean
from attack_core.signal.labels import resolve_labels
from attack_core.signal.signal_model import knows_errors, vib_of_images
from attack_core.solving.by_tokens.solvable import sends_nothing_down
from fl_core.threat.observation import Observation

_NO_BETTER = "auto: what matching found explains the signal no better than a fit to the known error would"
"""Why an answer is the prior after all."""


@dataclass(frozen=True, kw_only=True)
class Course:
    """What `auto` chooses among on one observation; the first three fields are those of `Auto`.

    `loop` gives its matching loop as it suits the observation.
    """

    analytic: Analytic
    convolutions: ConvolutionInversion
    tokens: TokenInversion
    loop: Callable[[], Matching]
    observation: Observation
    model: nn.Module
    generator: torch.Generator
    progress: Progress | None

    def run(self) -> Search[Reconstruction]:
        """The images that the client trained on, whatever a defense had made of those that it holds."""
        observation, model = self.observation, self.model
        generator, progress = self.generator, self.progress
        check_observation(observation)
        nothing = (
            says_nothing(observation)
            or sends_nothing_down(observation, model)
            or says_few_features(observation, model)
        )
        solved = by_tokens(observation, model) if nothing is None else None
        if solved is not None:
            return solved
        several = tokens_of_batch(observation, model) if nothing is None else None
        if several is not None:
            return self.tokens.invert_batch(*several, observation, model, generator, progress)
        batch = batch_by_statistics(observation, model) if nothing is None else None
        if batch is not None:
            return self.convolutions.invert_batch(batch, observation, model, generator, progress)
        obstacle = obstacle_to_analytic(observation, model) if nothing is None else None
        deep = deeper_than_features(observation, model) if nothing is None else None
        if deep is not None:
            last = convolution_calls(model, observation.state, observation.model.shape)[-1].name
            # Where that is the last one alone, decoding tells the same, and images are searched under a weaker prior.
            if obstacle is None and deep.layers == (last,):
                decoded = self.analytic.by_decoding(observation, model, generator, progress=progress)
                if decoded is not None:
                    return decoded
            return self._or_features(self.convolutions.invert(deep, observation, model, generator, progress))
        if nothing is None and obstacle is not None and observation.examples == 1:
            # Features that are few, or that a defense cut, are no hindrance to what lies in front of them.
            decoded = self.analytic.by_decoding(observation, model, generator, progress=progress)
            if decoded is not None:
                return decoded
        if (obstacle is not None or observation.examples > 1) and too_weak(observation):
            nothing = "the known error drowns what the images could say"
        if nothing is not None:
            labels = resolve_labels("auto", observation, model, observation.examples, generator)
            return prior_answer(observation, labels, f"auto: {nothing}")
        fallback = self.loop()
        if obstacle is None:
            return self._weighed(self._by_features(fallback), fallback)
        found = yield from fallback.search(observation, model, generator, progress=progress)
        found = replace(found, notes=(f"auto: matching, because {obstacle}", *found.notes))
        if len(found.images) != observation.examples:
            return found
        if not knows_errors(observation):
            return self._weighed(found, fallback)
        return supported_or_prior(found, observation, model, _NO_BETTER)

    def _by_features(self, fallback: Matching) -> Reconstruction:
        attack = replace(self.analytic, fallback=fallback)
        return attack(self.observation, self.model, self.generator, progress=self.progress)

    def _or_features(self, found: Reconstruction, limits: AutoLimits = AUTO_LIMITS) -> Reconstruction:
        """What `convolutions` found, or the answer from the features where it explains the gradient better."""
        drawn = vib_of_images(self.observation) is not None
        if drawn or found.loss <= limits.unexplained:
            return found
        if obstacle_to_analytic(self.observation, self.model) is not None:
            return found
        other = self._by_features(self.loop())
        if other.outcome != "analytic" or not other.loss < found.loss:
            return with_cost_of(found, other)
        note = (
            "auto: features, which explain the gradient better than the inputs of convolutions do: relative squared "
            f"distance {magnitude(other.loss)}, not {magnitude(found.loss)}"
        )
        return replace(with_cost_of(other, found), notes=(note, *other.notes))

    def _weighed(self, found: Reconstruction, fallback: Matching) -> Reconstruction:
        """What matching found where it explains a defended signal more than a fit to nothing would, else the prior.

        Who knows of no defense takes the signal as it is.
        """
        observation = self.observation
        if found.outcome != "matching" or not observation.facts or observation.public_mean is None:
            return found
        if observation.examples > 1 and knows_errors(observation):
            return supported_or_prior(found, observation, self.model, _NO_BETTER)
        of_mean = float(at_the_mean(fallback)(observation, self.model, self.generator).history[0, 0])
        if explains_more(found.loss, of_mean, observation):
            return found
        reason = "auto: what matching found explains the signal hardly better than the mean public image does"
        return prior_instead(found, observation, reason)
