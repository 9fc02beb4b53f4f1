"""What a matching attack minimises on one observation: losses, priors and what else moves, fixed while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional

from attack_core.gradients.batchnorm import SeenStatistics
from attack_core.gradients.comparison.layers import choose, layer_weights
from attack_core.gradients.comparison.matched import Matched
from attack_core.gradients.convolutions import channels_last, fixed_weights
from attack_core.gradients.handles import GradientHandle
from attack_core.gradients.objectives import Objective
from attack_core.gradients.targets import check_observation
from attack_core.local_sgd.problems import Count, LocalProblem
from attack_core.matching.loop.features import FeatureTarget
from attack_core.matching.settings import PRESETS, MatchingSettings
from attack_core.priors.penalties import total_variation
from attack_core.priors.priors import GroupConsistency, Prior, Scene, check_priors, check_trained
from attack_core.signal.labels import resolve_labels
from attack_core.signal.signal_model import matched_numbers
from fl_core.base.errors import InputError
from fl_core.base.types import ModelState
from fl_core.models.config import Network
from fl_core.threat.observation import Observation


@dataclass(frozen=True, eq=False)
class Point:
    """A network at its weights; points of equal numbers are equal."""

    model: Network
    state: ModelState

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Point):
            return NotImplemented
        return self.model == other.model and self.state.same_numbers(other.state)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is minimised: fixed while the loop runs."""

    model: nn.Module
    observation: Observation
    local: LocalProblem
    matched: Matched
    objective: Objective
    tv_weight: Tensor
    priors: tuple[Prior, ...]
    clamp: float | None
    labels: Tensor | None
    images: int
    features: FeatureTarget | None
    statistics: SeenStatistics | None
    statistics_weight: float
    later: tuple[Problem, ...] = ()
    """The same for each of the other rounds that were watched; the losses of all are added."""

    @property
    def compares_restarts(self) -> bool:
        """Whether a prior asks for the images of all restarts."""
        return any(isinstance(prior, GroupConsistency) for prior in self.priors)

    @cached_property
    def hard(self) -> Tensor:
        """The fixed labels as probabilities (B, K), made once: the library reads them back from the device."""
        if self.labels is None:
            raise AssertionError("fixed labels or logits, one of them is there")
        return functional.one_hot(self.labels, self.observation.model.outputs).to(torch.float32)

    @cached_property
    def varies(self) -> bool:
        """Whether total variation counts for any candidate."""
        return bool(self.tv_weight.any())

    @cached_property
    def point(self) -> Point | None:
        """Where all gradients are taken; None where candidates have points of their own, or several rounds count."""
        state = self.local.point
        return None if state is None or self.later else Point(self.observation.model, state)

    def losses(self, images: Tensor, logits: Tensor | None, which: list[int]) -> Tensor:
        """Matching losses (A,) of candidates `which`: images (A, B, 3, S, S), logits (A, B, K)."""
        return self.losses_of(
            self.local.handles(images, self.probabilities(images, logits), which), images, logits, which
        )

    def losses_of(
        self,
        handles: Mapping[str, GradientHandle],
        images: Tensor,
        logits: Tensor | None,
        which: list[int],
    ) -> Tensor:
        """The same from the `handles` that `local` gives of these images in the first round."""
        loss = self.objective.loss(self.matched.terms(handles)) + self.local.tie(images, which)
        if self.features is not None:
            loss = loss + self.features.loss(handles)
        if self.statistics is not None and self.statistics_weight:
            missed = self.statistics.distance(self.model, self.observation.state, images)
            loss = loss + self.statistics_weight * missed
        for each in self.later:
            loss = loss + each.losses(images, logits, which)
        return loss

    def leaves(self, candidate: int) -> list[Tensor]:
        """What is optimised beside a candidate's images, in all rounds."""
        return [leaf for each in (self, *self.later) for leaf in each.local.leaves(candidate)]

    def probabilities(self, images: Tensor, logits: Tensor | None) -> Tensor:
        """What each image's label is taken for, (A, B, K)."""
        if logits is not None:
            return logits.softmax(dim=-1)
        return self.hard.expand(len(images), -1, -1)

    def penalty(self, images: Tensor, which: Tensor, restarts: Tensor | None) -> Tensor:
        """The priors' sum (A,) for candidates `which` (A,): images (A, B, 3, S, S); `restarts` as in `Scene`."""
        scene = Scene(self.model, self.observation.state, restarts, self.observation.prior, self.statistics)
        total = images.new_zeros(len(images))
        if self.varies:
            total = self.tv_weight[which] * total_variation(images)
        for prior in self.priors:
            total = total + prior.penalty(images, scene)
        return total


def problem_of(
    attack: MatchingSettings, observation: Observation, model: nn.Module, generator: torch.Generator
) -> Problem:
    """The problem that `attack` poses on `observation`; `generator` serves the inference of labels."""
    check_observation(observation)
    attack.check_images(observation.examples)
    first, *later = (_of_round(attack, each, model, generator) for each in observation.rounds)
    # The labels that the first round shows.
    return replace(first, later=tuple(replace(each, labels=first.labels) for each in later))


def _of_round(
    attack: MatchingSettings, observation: Observation, model: nn.Module, generator: torch.Generator
) -> Problem:
    observation = replace(
        observation,
        tensors=channels_last(observation.tensors),
        state=replace(observation.state, parameters=fixed_weights(observation.state.parameters)),
    )
    images = attack.images or observation.examples
    local = attack.local.prepare(observation, model, Count(attack.restarts, images))
    targets = local.targets
    device = next(iter(targets.values())).device
    labels = resolve_labels(attack.labels, observation, model, images, generator)
    weights = layer_weights(targets, attack.layer_weights)
    check_priors(attack.priors, model)
    check_trained(attack.priors, observation.prior)
    chosen = choose(targets, indices=attack.layers, names=attack.layer_names)
    tv_weight, clamp = PRESETS[attack.preset] if attack.preset else (attack.tv_weight, attack.clamp)
    return Problem(
        model=model,
        observation=observation,
        local=local,
        matched=matched_numbers(observation, targets, {name: weights[name] for name in chosen}).factored(
            observation.examples
        ),
        objective=attack.objective,
        tv_weight=torch.tensor(attack.each(tv_weight), dtype=torch.float32, device=device),
        priors=attack.priors,
        clamp=clamp,
        labels=None if labels is None else labels.to(device).repeat(local.copies),
        images=images * local.copies,
        features=FeatureTarget.of(attack.feature_weight, observation, model, targets)
        if attack.feature_weight
        else None,
        statistics=_seen_statistics(attack, observation, model),
        statistics_weight=attack.statistics_weight,
    )


def _seen_statistics(
    attack: MatchingSettings, observation: Observation, model: nn.Module
) -> SeenStatistics | None:
    """What BatchNorm had of the client's batches; raises `InputError` where it has to count and is not seen."""
    seen = SeenStatistics.of(observation, model)
    if seen is None and attack.statistics_weight:
        raise InputError(
            f"Matching.statistics_weight = {attack.statistics_weight:g}: the change of BatchNorm's statistics is not "
            "seen; set it to 0, or threat.sees_statistics to true where clients send that change."
        )
    return seen
