"""The one matching loop: find images whose gradient is the observed one.

All restarts run together along a leading candidate axis, for one image or batches, with fixed or optimised
labels. The published attacks of this kind are settings of it: `attack_core.attacks.registry`.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated, Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from attack_core.base.search import Question, Search, alone, asked
from attack_core.base.types import Attack, PriorUse, Progress, Reconstruction
from attack_core.gradients.batchnorm import SeenStatistics
from attack_core.gradients.convolutions import channels_last
from attack_core.gradients.handles import GradientHandle
from attack_core.gradients.objectives import L2, LayerMode, Matched, Objective, choose, layer_weights
from attack_core.gradients.refusals import second_derivatives
from attack_core.gradients.targets import check_observation
from attack_core.local_sgd.simulation import Averaged, Count, LocalModel, LocalProblem, merge_copies
from attack_core.matching.candidates import (
    Candidates,
    Canvas,
    EarlyStop,
    Parametrisation,
    Pixels,
    RestartHalving,
    Scores,
)
from attack_core.matching.features import FeatureTarget
from attack_core.matching.optimizers import OptimizerName, Schedule, Sign, make_stepper, rate_factor, warmup
from attack_core.priors.deep_prior import DeepPrior
from attack_core.priors.priors import (
    GroupConsistency,
    OwnPrior,
    Prior,
    Scene,
    Trained,
    check_priors,
    check_trained,
    total_variation,
)
from attack_core.signal.inits import Init, initial_images
from attack_core.signal.labels import LabelStrategy, resolve_labels
from attack_core.signal.signal_model import matched_numbers
from fl_core.base.errors import InputError
from fl_core.base.types import LATER, InUnits, ModelState, require
from fl_core.models.config import Network
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
        problem = Problem.of(self, observation, model, generator)
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

    @classmethod
    def of(
        cls, attack: Matching, observation: Observation, model: nn.Module, generator: torch.Generator
    ) -> Problem:
        """The problem that `attack` poses on `observation`; `generator` serves the inference of labels."""
        check_observation(observation)
        attack.check_images(observation.examples)
        first, *later = (cls._of_round(attack, each, model, generator) for each in observation.rounds)
        # The labels that the first round shows.
        return replace(first, later=tuple(replace(each, labels=first.labels) for each in later))

    @classmethod
    def _of_round(
        cls, attack: Matching, observation: Observation, model: nn.Module, generator: torch.Generator
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
        return cls(
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


@dataclass(frozen=True, eq=False)
class Point:
    """A network at its weights; points of equal numbers are equal."""

    model: Network
    state: ModelState

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Point):
            return NotImplemented
        return self.model == other.model and self.state.same_numbers(other.state)


@dataclass(frozen=True)
class Slopes:
    """Matching losses (A,), and gradients: by images (A, B, 3, S, S), by logits (A, B, K), by `leaves` in order."""

    losses: Tensor
    images: Tensor
    logits: Tensor | None
    leaves: tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class Evaluation(Question[Slopes]):
    """Asks for the `Slopes` of a problem's candidates `which`; those of other problems on one point go together."""

    problem: Problem
    images: Tensor
    logits: Tensor | None
    which: list[int]

    @property
    def kin(self) -> Hashable | None:
        """See `Question.kin`."""
        if self.problem.point is None:
            return None
        return self.images.shape[1:], self.logits is not None

    @property
    def ground(self) -> object:
        """See `Question.ground`."""
        return self.problem.point

    @classmethod
    def answers(cls, questions: Sequence[Self]) -> list[Slopes]:
        """See `Question.answers`: one pass of all candidates, and each problem's losses from its part of that."""
        counts = [len(question.images) for question in questions]
        images = torch.cat([question.images for question in questions]).requires_grad_(True)
        soft = [question.logits for question in questions if question.logits is not None]
        logits = torch.cat(soft).requires_grad_(True) if soft else None
        leaves = [
            leaf for question in questions for i in question.which for leaf in question.problem.leaves(i)
        ]
        with torch.enable_grad(), second_derivatives():
            parts: Any = (
                images.split(counts),
                [None] * len(counts) if logits is None else logits.split(counts),
            )
            found = torch.cat(cls._losses(questions, list(zip(*parts, strict=True))))
            inputs = [images, *([] if logits is None else [logits]), *leaves]
            slopes = (
                torch.autograd.grad(found.sum(), inputs, materialize_grads=True)
                if found.requires_grad
                else [torch.zeros_like(each) for each in inputs]
            )
        by_logits = [None] * len(counts) if logits is None else slopes[1].split(counts)
        # Problems with leaves of their own are evaluated alone.
        by_leaves = tuple(slopes[1 if logits is None else 2 :])
        each = zip(found.detach().split(counts), slopes[0].split(counts), by_logits, strict=True)
        return [Slopes(*own, by_leaves) for own in each]

    @staticmethod
    def _losses(
        questions: Sequence[Evaluation], parts: Sequence[tuple[Tensor, Tensor | None]]
    ) -> list[Tensor]:
        """Each question's losses (A,), of its part of the images and logits."""
        first, *others = questions
        if not others:
            return [first.problem.losses(*parts[0], first.which)]
        pairs = list(zip(questions, parts, strict=True))
        probabilities = torch.cat([question.problem.probabilities(*part) for question, part in pairs])
        images = torch.cat([part[0] for part in parts])
        # Where they join, a pass depends on neither the problem nor on which candidates these are.
        handles = first.problem.local.handles(images, probabilities, list(range(len(images))))
        counts = [len(part[0]) for part in parts]
        split = {name: handle.split(counts) for name, handle in handles.items()}
        return [
            question.problem.losses_of({name: own[i] for name, own in split.items()}, *part, question.which)
            for i, (question, part) in enumerate(pairs)
        ]


class Recorder:
    """Evaluates candidates for a stepper and keeps each one's first scores, those of the point before the step.

    At most `packing` candidates are evaluated together. `images` counts the images of all evaluations.
    """

    def __init__(self, problem: Problem, candidates: Candidates, prior_factor: float, packing: int) -> None:
        self.first: list[Scores] = []
        self.images = 0
        self._problem, self._candidates, self._prior_factor = problem, candidates, prior_factor
        self._packing, self._seen = packing, set[int]()
        self._restarts = candidates.finite() if problem.compares_restarts else None

    def __call__(self, which: list[int]) -> Search[Tensor]:
        """See `attack_core.matching.optimizers.Evaluate`."""
        self.images += len(which) * self._problem.images
        totals = []
        for pack in [which[i : i + self._packing] for i in range(0, len(which), self._packing)]:
            scores = yield from self._together(pack)
            totals.append(scores.total)
            if self._seen.isdisjoint(pack):
                self.first.append(scores)
                self._seen.update(pack)
        return torch.cat(totals)

    def _together(self, which: list[int]) -> Search[Scores]:
        canvases, logits = self._candidates.canvases, self._candidates.logits
        with torch.enable_grad():
            images = torch.stack([canvases[i].image() for i in which])
            soft = None if logits is None else torch.stack([logits[i] for i in which])
        kept = None if soft is None else soft.detach()
        slopes = yield from asked(Evaluation(self._problem, images.detach(), kept, which))
        index = self._candidates.index(which)
        with torch.enable_grad():
            penalty = self._prior_factor * self._problem.penalty(images, index, self._restarts)
        self._hand_out(which, images, soft, penalty, slopes)
        return Scores(index, slopes.losses + penalty.detach(), slopes.losses, images.detach(), kept)

    def _hand_out(
        self, which: list[int], images: Tensor, soft: Tensor | None, penalty: Tensor, slopes: Slopes
    ) -> None:
        """Leave in each leaf's `grad` its part of the slopes, by what the candidates make of their leaves."""
        outputs, weights = [images], [slopes.images]
        if soft is not None and slopes.logits is not None:
            outputs, weights = [*outputs, soft], [*weights, slopes.logits]
        if penalty.requires_grad:
            outputs, weights = [*outputs, penalty], [*weights, torch.ones_like(penalty)]
        leaves = [leaf for i in which for leaf in self._candidates.own_leaves(i)]
        with second_derivatives():
            gradients = torch.autograd.grad(outputs, leaves, weights)
        others = [leaf for i in which for leaf in self._problem.leaves(i)]
        for leaf, gradient in zip([*leaves, *others], [*gradients, *slopes.leaves], strict=True):
            leaf.grad = gradient
