"""Whether the images found explain the update under the facts that are given, and under which others they do.

The training is run again on the images: with the right facts it moves the weights as the client's did. One step fixes
the learning rate alone; further steps bend the path, so that steps and learning rate can be told apart.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from attack_core.base.types import Reconstruction
from fl_core.base.decibels import TINY, energy
from fl_core.base.types import Tensors
from fl_core.federation.client import LocalTraining, difference, train_locally
from orchestrator.library.invert import Case


@dataclass(frozen=True, kw_only=True)
class ExplanationLimits:
    """When images explain an update, and when other facts explain it better."""

    fits: float = 0.01
    """The share of the update's energy that right facts leave: a learning rate that is off by 10% leaves so much."""
    better: float = 0.1
    """Other facts must leave at most this share of what the given ones leave."""
    steps: int = 10
    """So many steps are tried."""
    corrections: int = 6
    """How often a learning rate is corrected along the path."""
    parallel: float = 0.9
    """An answer whose gradient has this cosine with the update fixes the learning rate of one step."""
    off: float = 0.1
    """A learning rate that is off by more than this share contradicts the update."""
    most_evaluations: int = 200
    """Trainings of more steps are not run again."""


EXPLANATION_LIMITS = ExplanationLimits()
"""The limits in force."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """Facts of a training: full batches are all images together."""

    lr: float
    momentum: float
    batch_size: int
    steps: int


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """What the images leave unexplained: `left` is a share of the update's energy under the facts given or assumed.

    `facts` are those that explain it instead, by name; empty where the given ones do or none does. `also` names other
    facts that explain it nearly as well, in words.
    """

    left: float
    facts: Mapping[str, float] = field(default_factory=dict)
    also: tuple[str, ...] = ()


def explained(
    case: Case,
    answer: Reconstruction,
    *,
    lr_known: bool = True,
    limits: ExplanationLimits = EXPLANATION_LIMITS,
) -> Explanation | None:
    """How the answer's images explain the update; None where that cannot be said.

    It can for one client's update by SGD without a defense, and one image found for each behind it. `lr_known` says
    that the case's learning rate was told, so that it is likely to be right where the number of steps is not.
    """
    seen = case.observation
    told = seen.signal in ("one_step_update", "local_update") and not seen.facts and not seen.earlier
    images = answer.images
    whole = len(images) == seen.examples and answer.outcome in ("analytic", "matching")
    if not told or not whole or len(images) * max(seen.steps, limits.steps) > limits.most_evaluations:
        return None
    trial = _Trial(case=case, images=images, labels=answer.labels)
    given = Training(lr=seen.lr, momentum=seen.momentum, batch_size=seen.batch_size, steps=seen.steps)
    left = trial.left(trial.moved(given))
    if left <= limits.fits:
        return Explanation(left=left)
    others = sorted(_others(trial, given, lr_known, limits), key=lambda pair: pair[0])
    fitting = [pair for pair in others if pair[0] <= min(limits.fits, limits.better * left)]
    if not fitting:
        return Explanation(left=left)
    # That one fact is wrong is likelier than that two are: these must leave much less.
    alone = [pair for pair in fitting if len(_changed(given, pair[1])) == 1]
    simple = bool(alone) and fitting[0][0] > limits.better * alone[0][0]
    best, chosen = alone[0] if simple else fitting[0]
    near = [each for size, each in fitting if each != chosen and size <= best / limits.better]
    return Explanation(
        left=left,
        facts=_changed(given, chosen),
        also=tuple(dict.fromkeys(in_words(_changed(given, each)) for each in near)),
    )


def lr_of_one_step(
    case: Case, images: Tensor, labels: Tensor, *, limits: ExplanationLimits = EXPLANATION_LIMITS
) -> float | None:
    """The learning rate at which one step on `images` (in [-1, 1]) moves the weights as far as the update did.

    None where nothing says so: after more steps, under a defense, and where the images' gradient is not parallel to the
    update.
    """
    seen = case.observation
    if seen.signal != "one_step_update" or seen.facts or seen.earlier:
        return None
    trial = _Trial(case=case, images=images, labels=labels)
    step = Training(lr=seen.lr, momentum=0.0, batch_size=len(images), steps=1)
    factor, cosine = trial.along(trial.moved(step))
    return seen.lr * factor if cosine >= limits.parallel else None


def explained_at(value: float) -> str:
    """At which value of a fact the images explain the update, in words."""
    return f"the images explain the update at {value:.3g}"


def in_words(facts: Mapping[str, float]) -> str:
    """Facts as a person would say them."""
    names = {"lr": "learning rate", "steps": "steps", "batch_size": "batch size", "momentum": "momentum"}
    return ", ".join(f"{names[name]} {value:.3g}" for name, value in facts.items())


@dataclass(frozen=True, kw_only=True)
class _Trial:
    case: Case
    images: Tensor
    labels: Tensor

    def path(self, training: Training) -> Iterator[Tensors]:
        """How the training on these images, in their order, has moved the weights after each of its steps."""
        case, size = self.case, training.batch_size
        images, labels = self.images.to(case.subject.device), self.labels.to(case.subject.device)
        batches = [(images[i : i + size], labels[i : i + size]) for i in range(0, len(images), size)]
        local = LocalTraining(lr=training.lr, momentum=training.momentum, batch_size=size)
        state, velocity = case.observation.state, dict[str, Tensor]()
        for batch in itertools.islice(itertools.cycle(batches), training.steps):
            with torch.enable_grad():
                trained = train_locally(case.subject.model, state, [batch], local, velocity=velocity)
            state, velocity = trained.state, dict(trained.velocity)
            yield difference(state.parameters, case.observation.state.parameters)

    def moved(self, training: Training) -> Tensors:
        """How the training has moved the weights in the end."""
        *_, last = self.path(training)
        return last

    def left(self, own: Tensors) -> float:
        """The share of the update's energy that such a move of the weights leaves."""
        wanted = self.case.observation.tensors
        missed = sum(float((own[name] - wanted[name]).square().sum()) for name in own)
        left = missed / max(sum(float(wanted[name].square().sum()) for name in own), TINY)
        return left if math.isfinite(left) else math.inf

    def along(self, own: Tensors) -> tuple[float, float]:
        """The factor that brings such a move of the weights nearest to the update, and the cosine between the two."""
        wanted = self.case.observation.tensors
        dot = sum(float((own[name] * wanted[name]).sum()) for name in own)
        square, target = (sum(energy(each[name]) for name in own) for each in (own, wanted))
        if min(square, target) <= 0:
            return 0.0, 0.0
        return dot / square, dot / math.sqrt(square * target)

    def fitted(self, training: Training, corrections: int) -> Training:
        """The same training at the learning rate that fits best, which moves the weights as far."""
        for _ in range(corrections):
            factor, _ = self.along(self.moved(training))
            lr = training.lr * factor
            if not 0 < lr < math.inf:
                break
            training = replace(training, lr=lr)
        return training


def _others(
    trial: _Trial, given: Training, lr_known: bool, limits: ExplanationLimits
) -> Iterator[tuple[float, Training]]:
    """Other facts that are tried, and what each leaves: one of them changed, or all images in each step.

    A learning rate may be wrong beside the number of steps.
    """
    reach = given.lr * trial.along(trial.moved(replace(given, momentum=0.0, steps=1)))[0]
    for steps in {given.steps, *range(1, limits.steps + 1)}:
        # As far in all as the update, so that neither a rate that was told too large nor more steps diverge.
        start = replace(given, steps=steps, lr=reach / steps)
        if not 0 < start.lr < math.inf:
            continue
        fitted = trial.fitted(start, limits.corrections)
        yield trial.left(trial.moved(fitted)), fitted
    if not lr_known:
        # Nothing else can be right at a rate that nobody told.
        return
    for momentum, size in itertools.product(
        {given.momentum, 0.0, 0.9}, {given.batch_size, len(trial.images)}
    ):
        other = replace(given, momentum=momentum, batch_size=size, steps=limits.steps)
        for steps, moved in enumerate(trial.path(other), start=1):
            # After one step momentum has done nothing.
            if steps > 1 or momentum == given.momentum:
                yield trial.left(moved), replace(other, steps=steps)


def _changed(given: Training, chosen: Training) -> dict[str, float]:
    pairs = {
        name: (getattr(given, name), getattr(chosen, name))
        for name in ("lr", "momentum", "batch_size", "steps")
    }
    return {name: new for name, (old, new) in pairs.items() if new != old}
