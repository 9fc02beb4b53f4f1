"""The one matching loop: find images whose gradient is the observed one.

All restarts run together along a leading candidate axis, for one image or batches, with fixed or optimised
labels. The published attacks of this kind are settings of it: `attack_core.attacks.registry`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, Self

import torch
from torch import nn

from attack_core.base.search import Search, alone
from attack_core.base.types import Attack, PriorUse, Progress, Reconstruction
from attack_core.gradients.batchnorm import SeenStatistics
from attack_core.gradients.comparison.layers import LayerMode, choose, layer_weights
from attack_core.gradients.convolutions import channels_last
from attack_core.gradients.objectives import L2, Objective
from attack_core.gradients.targets import check_observation
from attack_core.local_sgd.simulation import Averaged, Count, LocalModel, merge_copies
from attack_core.matching.candidates import (
    Candidates,
    Canvas,
    EarlyStop,
    Parametrisation,
    Pixels,
    RestartHalving,
)
from attack_core.matching.evaluation import Recorder
from attack_core.matching.features import FeatureTarget
from attack_core.matching.optimizers import OptimizerName, Schedule, Sign, make_stepper, rate_factor, warmup
from attack_core.matching.problem import Problem
from attack_core.priors.deep_prior import DeepPrior
from attack_core.priors.priors import (
    GroupConsistency,
    OwnPrior,
    Prior,
    Trained,
    check_priors,
    check_trained,
)
from attack_core.signal.inits import Init, initial_images
from attack_core.signal.labels import LabelStrategy, resolve_labels
from attack_core.signal.signal_model import matched_numbers
from fl_core.base.errors import InputError
from fl_core.base.types import LATER, InUnits, require
from fl_core.threat.observation import Observation

MOST = 10_000_000
"""More iterations, restarts or images than this are a slip of the keyboard, and would fill any memory."""

Preset = Literal["default", "soft", "tight", "none"]

PRESETS: dict[Preset, tuple[float, float | None]] = {
    "default": (1e-3, 2.0),
    "soft": (3e-4, 3.0),
    "tight": (1e-2, 1.5),
    "none": (0.0, None),
}
"""TV weight and clamp of each preset."""


@dataclass(frozen=True, kw_only=True)
class LoopLimits:
    """How often the loop reads from the device; the figures do not depend on it."""

    look: int = 16
    """On a GPU: after so many iterations it is read which restarts have ended, and progress is told.

    A GPU stands still while a number is read from it. On the CPU that costs nothing, and every iteration looks.
    """


LOOP_LIMITS = LoopLimits()
"""The limits in force."""


def looks_every(device: torch.device) -> int:
    """After how many iterations the loop reads from `device` which restarts have ended."""
    return 1 if device.type == "cpu" else LOOP_LIMITS.look


@dataclass(frozen=True, kw_only=True)
class Matching(Attack):
    """Gradient matching by gradient descent on the images.

    The loss is `objective` + `tv_weight` * total variation + the sum of `priors`; `tv_weight` is the short form of
    the plain prior. `lr` and `tv_weight` may be lists, one value for each restart. `sign` passes the gradient's
    sign to a first-order optimizer. `clamp` bounds pixels to +-clamp in normalised units (None: unbounded);
    `preset` replaces `tv_weight` and `clamp`. `layers` (indices) and `layer_names` (substrings) choose parameters.
    `images` is how many images to reconstruct (None: as many as the signal holds). `local` says how images explain
    the weight delta of several local steps. `feature_weight` adds for one image the relative squared distance of its
    features to those that the gradients of the first fully connected layer determine (`attack_core.fc.inversion`).
    `statistics_weight` adds the distance of the images' BatchNorm statistics to those that the client's batch had
    (`attack_core.gradients.batchnorm.SeenStatistics`), where the threat model shows them; of several steps or clients
    it is the averages that are compared.
    `packing` is how many restarts are evaluated together (None: all): fewer take less memory, and the figures
    agree to rounding.

    What the attacker knows of a defense is used: numbers that were withheld are not matched, and under clipping
    L2 distances are those at the scale that fits best. Of several rounds that were watched the losses are added.

    `parametrisation` says what moves: the pixels, from `init` at standard deviation `init_std`, or with
    `deep_prior` the weights of one small untrained network for each restart, which has no init and bounds its
    pixels by itself.

    With the cosine schedule `anneal_tv` lets the weights of all priors fall with the learning rate, so that they
    count early and hardly count at the end; a restart's answer is then its last point, and its best point by
    the loss otherwise. Among restarts the one of least loss is taken; with `halving` the worse ones by their loss end
    early. Nothing is selected by the truth.
    """

    kind: Literal["matching"] = "matching"
    iterations: Annotated[int, InUnits("iterations")] = 2000
    restarts: Annotated[int, InUnits("restarts")] = 1
    packing: Annotated[int | None, InUnits("restarts")] = None
    optimizer: OptimizerName = "adam"
    lr: float | tuple[float, ...] = 0.1
    schedule: Schedule = "none"
    sign: Sign = "none"
    objective: Objective = field(default_factory=L2)
    tv_weight: float | tuple[float, ...] = 1e-3
    priors: tuple[Prior, ...] = ()
    anneal_tv: bool = True
    clamp: Annotated[float | None, InUnits("normalised")] = 2.0
    preset: Preset | None = None
    early_stop: EarlyStop | None = None
    halving: RestartHalving | None = field(default=None, metadata=LATER)
    parametrisation: Parametrisation = "pixels"
    init: Init = "normal"
    init_std: Annotated[float, InUnits("normalised")] = 0.1
    layers: tuple[int, ...] | None = None
    layer_names: tuple[str, ...] | None = None
    layer_weights: LayerMode | tuple[float, ...] = "uniform"
    labels: LabelStrategy = "auto"
    images: Annotated[int | None, InUnits("images")] = None
    feature_weight: float = 0.0
    statistics_weight: float = field(default=0.0, metadata=LATER)
    local: LocalModel = field(default_factory=Averaged)

    def __post_init__(self) -> None:
        for name in ("iterations", "restarts"):
            require(1 <= getattr(self, name) <= MOST, self, name, f"from 1 to {MOST:,}")
        require(self.packing is None or self.packing >= 1, self, "packing", "at least 1, or null for all")
        require(self.clamp is None or self.clamp > 0, self, "clamp", "more than 0, or null for none")
        require(self.init_std > 0, self, "init_std", "more than 0")
        require(self.feature_weight >= 0, self, "feature_weight", "at least 0")
        require(self.statistics_weight >= 0, self, "statistics_weight", "at least 0")
        require(self.images is None or 1 <= self.images <= MOST, self, "images", f"from 1 to {MOST:,}")
        require(all(rate > 0 for rate in self._each(self.lr)), self, "lr", "more than 0")
        require(all(weight >= 0 for weight in self._each(self.tv_weight)), self, "tv_weight", "at least 0")
        for name, value in (("lr", self.lr), ("tv_weight", self.tv_weight)):
            length_fits = not isinstance(value, tuple) or len(value) == self.restarts
            require(length_fits, self, name, f"one number, or one for each of {self.restarts} restarts")
        signs = self.sign == "none" or self.optimizer != "lbfgs"
        require(signs, self, "sign", "'none' with the optimizer 'lbfgs', which needs the gradient itself")
        starts = self.parametrisation == "pixels" or self.init == "normal"
        require(starts, self, "init", "'normal', which is the default: a deep prior starts at random weights")
        several = self.halving is None or self.halving.kept(self.restarts) < self.restarts
        require(several, self, "halving", "null, or beside so many restarts that some of them end")
        if any(isinstance(prior, GroupConsistency) for prior in self.priors):
            require(
                self.restarts > 1, self, "restarts", "at least 2 with the prior 'group', which compares them"
            )
            require(
                self.halving is None, self, "halving", "null with the prior 'group', which compares restarts"
            )
            still = self.optimizer != "lbfgs"
            require(still, self, "optimizer", "a first-order one with the prior 'group', whose centre moves")

    def __call__(
        self,
        observation: Observation,
        model: nn.Module,
        generator: torch.Generator,
        *,
        progress: Progress | None = None,
    ) -> Reconstruction:
        """Run the attack; see `attack_core.base.types.Attack`.

        Raises `InputError` for a signal that does not fit the model and `AttackFailed` where every candidate
        ended in numbers that are not finite.
        """
        return alone(self.search(observation, model, generator, progress=progress))

    def search(
        self,
        observation: Observation,
        model: nn.Module,
        generator: torch.Generator,
        *,
        progress: Progress | None = None,
    ) -> Search[Reconstruction]:
        """See `Attack.search`: gradients of first-order optimizers are evaluated together with those of others."""
        problem = problem_of(self, observation, model, generator)
        candidates = start(self, problem, observation, generator)
        stepper = make_stepper(self.optimizer, candidates.parameters(), self._each(self.lr), self.sign)
        history = torch.full((self.iterations, self.restarts), math.nan, device=candidates.device)
        look = looks_every(candidates.device)
        done, work, active = 0, 0, candidates.look()
        for iteration in range(self.iterations):
            if not active:
                break
            seen = Recorder(problem, candidates, self._prior_factor(iteration), self.together)
            factor = rate_factor(self.schedule, iteration, self.iterations)
            yield from stepper.step(active, factor, seen)
            for scores in seen.first:
                moving = candidates.settle(scores, iteration, self.early_stop)
                history[iteration, scores.which] = torch.where(moving, scores.match, math.nan)
            candidates.clamp(problem.clamp)
            done, work = iteration + 1, work + seen.images
            halved = self.halving is not None and done == self.halving.begins(self.iterations)
            if self.halving is not None and halved:
                candidates.keep_best(self.halving.kept(self.restarts))
            if halved or done % look == 0:
                active = candidates.look()
            if progress is not None and (done % look == 0 or done == self.iterations or not active):
                progress(done, self.iterations, candidates.least())
        last = Recorder(problem, candidates, self._prior_factor(done), self.together)
        if active := candidates.look():
            yield from last(active)
        for scores in last.first:
            candidates.settle(scores, done, None)
        found = replace(
            candidates.result(history[:done], done),
            work=float(work + last.images),
            rounds=len(observation.rounds),
        )
        return merge_copies(found, problem.local.copies)

    def cost(self, images: int) -> float:
        """See `Attack.cost`."""
        evaluations = self.iterations * self.restarts
        if self.halving is not None:
            begins, kept = self.halving.begins(self.iterations), self.halving.kept(self.restarts)
            evaluations = begins * self.restarts + (self.iterations - begins) * kept
        return float(evaluations * (self.images or images))

    def with_matching(self, settings: Mapping[str, Any]) -> Self:
        """See `Attack.with_matching`."""
        return replace(self, **settings)

    def check_network(self, model: nn.Module) -> None:
        """Raise `InputError` for layers, weights or priors that this network does not have."""
        parameters = dict(model.named_parameters())
        choose(parameters, indices=self.layers, names=self.layer_names)
        if isinstance(self.layer_weights, tuple):
            layer_weights(parameters, self.layer_weights)
        check_priors(self.priors, model)

    def check_images(self, held: int) -> None:
        """Raise `InputError` for more images than the signal holds."""
        if self.images is not None and self.images > held:
            raise InputError(f"Matching.images = {self.images}, but the signal holds {held} images at most.")

    @property
    def together(self) -> int:
        """See `Attack.together`."""
        return self.restarts if self.packing is None else min(self.packing, self.restarts)

    @property
    def prior_use(self) -> PriorUse:
        """See `Attack.prior_use`; the prior `trained` needs one."""
        trained = any(isinstance(prior, Trained) for prior in self.priors)
        own = any(isinstance(prior, OwnPrior) for prior in self.priors)
        return "needed" if trained else "optional" if own else "unused"

    def packed(self, count: int) -> Self:
        """See `Attack.packed`."""
        return replace(self, packing=count)

    def shortened(self, share: float) -> Self:
        """See `Attack.shortened`; schedules are run through in the iterations that are left."""
        return replace(self, iterations=math.ceil(self.iterations * share))

    @property
    def _annealed(self) -> bool:
        return self.schedule == "cosine" and self.anneal_tv

    def _prior_factor(self, iteration: int) -> float:
        if not self._annealed or iteration < warmup(self.iterations):
            return 1.0
        return rate_factor(self.schedule, iteration, self.iterations)

    def _each(self, value: float | tuple[float, ...]) -> tuple[float, ...]:
        return value if isinstance(value, tuple) else (value,) * self.restarts


def at_the_mean(attack: Matching) -> Matching:
    """The attack that only says, as its history's first value, what the mean public image's matching loss is."""
    return replace(
        attack,
        iterations=1,
        restarts=1,
        packing=None,
        parametrisation="pixels",
        init="mean",
        lr=0.1,
        tv_weight=0.0,
        priors=(),
        statistics_weight=0.0,
    )


def problem_of(
    attack: Matching, observation: Observation, model: nn.Module, generator: torch.Generator
) -> Problem:
    """The problem that `attack` poses on `observation`; `generator` serves the inference of labels."""
    check_observation(observation)
    attack.check_images(observation.examples)
    first, *later = (_of_round(attack, each, model, generator) for each in observation.rounds)
    # The labels that the first round shows.
    return replace(first, later=tuple(replace(each, labels=first.labels) for each in later))


def _of_round(
    attack: Matching, observation: Observation, model: nn.Module, generator: torch.Generator
) -> Problem:
    observation = replace(
        observation,
        tensors=channels_last(observation.tensors),
        state=replace(observation.state, parameters=channels_last(observation.state.parameters)),
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
        tv_weight=torch.tensor(attack._each(tv_weight), dtype=torch.float32, device=device),
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


def _seen_statistics(attack: Matching, observation: Observation, model: nn.Module) -> SeenStatistics | None:
    """What BatchNorm had of the client's batches; raises `InputError` where it has to count and is not seen."""
    seen = SeenStatistics.of(observation, model)
    if seen is None and attack.statistics_weight:
        raise InputError(
            f"Matching.statistics_weight = {attack.statistics_weight:g}: the change of BatchNorm's statistics is not "
            "seen; set it to 0, or threat.sees_statistics to true where clients send that change."
        )
    return seen


def start(
    attack: Matching, problem: Problem, observation: Observation, generator: torch.Generator
) -> Candidates:
    """Random images and, where labels are optimised, random label logits, on the targets' device."""
    device = problem.matched.squares.device
    picture, count = observation.model.shape.size, problem.images
    canvases: list[Canvas]
    if attack.parametrisation == "deep_prior":
        canvases = [
            DeepPrior(count, observation.model.shape, generator, device) for _ in range(attack.restarts)
        ]
    else:
        shape = (attack.restarts, count, *picture)
        images = initial_images(
            attack.init, shape, std=attack.init_std, generator=generator, mean=observation.public_mean
        )
        canvases = [Pixels(image.to(device)) for image in images]
    extra = [problem.leaves(i) for i in range(attack.restarts)]
    if problem.labels is not None:
        return Candidates(canvases, problem.labels, keep_last=attack._annealed, extra=extra)
    logits = torch.randn((attack.restarts, count, observation.model.outputs), generator=generator)
    soft = [logit.to(device).requires_grad_(True) for logit in logits]
    return Candidates(canvases, soft, keep_last=attack._annealed, extra=extra)
