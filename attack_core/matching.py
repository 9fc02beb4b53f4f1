"""The one matching loop: find images whose gradient is the observed one.

All restarts run together along a leading candidate axis, for one image or batches, with fixed or optimised
labels. Zhu et al. 2019 (DLG), Zhao et al. 2020 (iDLG) and Geiping et al. 2020 (Inverting Gradients) are
settings of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from attack_core.inits import Init, initial_images
from attack_core.labels import LabelStrategy, resolve_labels
from attack_core.layers import gradient_handles
from attack_core.objectives import L2, LayerMode, Matched, Objective, choose, layer_weights
from attack_core.optimizers import OptimizerName, Schedule, make_stepper, rate_factor, warmup
from attack_core.priors import total_variation
from attack_core.targets import check_observation, gradient_estimate
from attack_core.types import AttackFailed, Progress, Reconstruction
from fl_core.errors import InputError
from fl_core.threat import Observation
from fl_core.types import Config, require

Preset = Literal["default", "soft", "tight", "none"]

PRESETS: dict[Preset, tuple[float, float | None]] = {
    "default": (1e-3, 2.0),
    "soft": (3e-4, 3.0),
    "tight": (1e-2, 1.5),
    "none": (0.0, None),
}
"""TV weight and clamp of each preset."""


@dataclass(frozen=True, kw_only=True)
class EarlyStop(Config):
    """End a candidate after `patience` iterations that improved its best loss by less than `min_delta` in all."""

    patience: int = 500
    min_delta: float = 1e-4

    def __post_init__(self) -> None:
        require(self.patience >= 1, self, "patience", "at least 1")
        require(self.min_delta >= 0, self, "min_delta", "at least 0")


@dataclass(frozen=True, kw_only=True)
class Matching(Config):
    """Gradient matching by gradient descent on the images.

    The loss is `objective` + `tv_weight` * total variation. `lr` and `tv_weight` may be lists, one value for
    each restart. `clamp` bounds pixels to +-clamp in normalised units (None: unbounded); `preset` replaces
    `tv_weight` and `clamp`. `layers` (indices) and `layer_names` (substrings) choose parameters. `images` is
    how many images to reconstruct (None: as many as the signal holds).

    With the cosine schedule `anneal_tv` lets the TV weight fall with the learning rate, so that the prior leads
    early and the data has the last word; a restart's answer is then its last point, and its best point by the
    loss otherwise. Among restarts the one of least loss is taken. Nothing is selected by the truth.
    """

    kind: Literal["matching"] = "matching"
    iterations: int = 2000
    restarts: int = 1
    optimizer: OptimizerName = "adam"
    lr: float | tuple[float, ...] = 0.1
    schedule: Schedule = "none"
    objective: Objective = field(default_factory=L2)
    tv_weight: float | tuple[float, ...] = 1e-3
    anneal_tv: bool = True
    clamp: float | None = 2.0
    preset: Preset | None = None
    early_stop: EarlyStop | None = None
    init: Init = "normal"
    init_std: float = 0.1
    layers: tuple[int, ...] | None = None
    layer_names: tuple[str, ...] | None = None
    layer_weights: LayerMode | tuple[float, ...] = "uniform"
    labels: LabelStrategy = "auto"
    images: int | None = None

    def __post_init__(self) -> None:
        require(self.iterations >= 1, self, "iterations", "at least 1")
        require(self.restarts >= 1, self, "restarts", "at least 1")
        require(self.clamp is None or self.clamp > 0, self, "clamp", "more than 0, or null for none")
        require(self.init_std > 0, self, "init_std", "more than 0")
        require(self.images is None or self.images >= 1, self, "images", "at least 1")
        require(all(rate > 0 for rate in self._each(self.lr)), self, "lr", "more than 0")
        require(all(weight >= 0 for weight in self._each(self.tv_weight)), self, "tv_weight", "at least 0")
        for name, value in (("lr", self.lr), ("tv_weight", self.tv_weight)):
            length_fits = not isinstance(value, tuple) or len(value) == self.restarts
            require(length_fits, self, name, f"one number, or one for each of {self.restarts} restarts")

    def __call__(
        self,
        observation: Observation,
        model: nn.Module,
        generator: torch.Generator,
        *,
        progress: Progress | None = None,
    ) -> Reconstruction:
        """Run the attack; see `attack_core.types.Attack`.

        Raises `InputError` for a signal that does not fit the model and `AttackFailed` where every candidate
        ended in numbers that are not finite.
        """
        problem = Problem.of(self, observation, model)
        candidates = Candidates.start(self, problem, observation, generator)
        stepper = make_stepper(self.optimizer, candidates.parameters())
        rates = self._each(self.lr)
        history = torch.full((self.iterations, self.restarts), math.nan)
        done = 0
        for iteration in range(self.iterations):
            active = candidates.active()
            if not active:
                break
            factor = rate_factor(self.schedule, iteration, self.iterations)
            seen = _Recorder(problem, candidates, self._prior_factor(iteration))
            stepper.step(active, [rate * factor for rate in rates], seen)
            candidates.settle(seen.first, iteration, self.early_stop)
            candidates.clamp(problem.clamp)
            for candidate, score in seen.first.items():
                history[iteration, candidate] = score.match
            done = iteration + 1
            if progress is not None:
                progress(done, self.iterations, min(best.total for best in candidates.best))
        last = _Recorder(problem, candidates, self._prior_factor(done))
        if candidates.active():
            last(candidates.active())
        candidates.settle(last.first, done, None)
        return candidates.result(history[:done], done)

    @property
    def _annealed(self) -> bool:
        return self.schedule == "cosine" and self.anneal_tv

    def _prior_factor(self, iteration: int) -> float:
        if not self._annealed or iteration < warmup(self.iterations):
            return 1.0
        return rate_factor(self.schedule, iteration, self.iterations)

    def _each(self, value: float | tuple[float, ...]) -> tuple[float, ...]:
        return value if isinstance(value, tuple) else (value,) * self.restarts


@dataclass(frozen=True)
class Score:
    """A candidate's loss at one point: in all, and without the prior."""

    total: float
    match: float
    images: Tensor
    logits: Tensor | None


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is minimised: fixed while the loop runs."""

    model: nn.Module
    observation: Observation
    matched: Matched
    objective: Objective
    tv_weight: Tensor
    clamp: float | None
    labels: Tensor | None
    images: int

    @classmethod
    def of(cls, attack: Matching, observation: Observation, model: nn.Module) -> Problem:
        """The problem that `attack` poses on `observation`."""
        check_observation(observation)
        images = attack.images or observation.examples
        if images > observation.examples:
            raise InputError(
                f"Matching.images = {images}, but the signal holds {observation.examples} images at most."
            )
        targets = gradient_estimate(observation)
        device = next(iter(targets.values())).device
        labels = resolve_labels(attack.labels, observation, images)
        weights = layer_weights(targets, attack.layer_weights)
        chosen = choose(targets, indices=attack.layers, names=attack.layer_names)
        tv_weight, clamp = PRESETS[attack.preset] if attack.preset else (attack.tv_weight, attack.clamp)
        return cls(
            model=model,
            observation=observation,
            matched=Matched.of(targets, {name: weights[name] for name in chosen}),
            objective=attack.objective,
            tv_weight=torch.tensor(attack._each(tv_weight), dtype=torch.float32, device=device),
            clamp=clamp,
            labels=None if labels is None else labels.to(device),
            images=images,
        )

    def losses(
        self, images: Tensor, logits: Tensor | None, which: list[int], prior_factor: float
    ) -> tuple[Tensor, Tensor]:
        """Total and matching losses (A,) of candidates `which`: images (A, B, 3, S, S), logits (A, B, K)."""

        def training_loss(outputs: Tensor) -> Tensor:
            if logits is not None:
                soft = logits.softmax(dim=-1)
                return -(soft * outputs.log_softmax(dim=-1)).sum(-1).mean(1)
            if self.labels is None:
                raise AssertionError("fixed labels or logits, one of them is there")
            hard = self.labels.expand(outputs.shape[:2]).flatten()
            each = functional.cross_entropy(outputs.flatten(0, 1), hard, reduction="none")
            return each.view(outputs.shape[:2]).mean(1)

        handles = gradient_handles(self.model, self.observation.state, images, training_loss)
        match = self.objective.loss(self.matched.terms(handles))
        weight = self.tv_weight[which] * prior_factor
        return match + weight * total_variation(images), match


class Candidates:
    """The restarts: their leaf tensors, the best point each has seen, and which of them have ended."""

    def __init__(self, images: list[Tensor], labels: Tensor | list[Tensor], *, keep_last: bool) -> None:
        self.images, self._keep_last = images, keep_last
        self.labels = labels if isinstance(labels, Tensor) else None
        self.logits = None if isinstance(labels, Tensor) else labels
        self.best = [Score(math.inf, math.inf, image, None) for image in images]
        self._ended = [False] * len(images)
        self._failed = [False] * len(images)
        self._improved = [(0, math.inf)] * len(images)

    @classmethod
    def start(
        cls, attack: Matching, problem: Problem, observation: Observation, generator: torch.Generator
    ) -> Candidates:
        """Random images and, where labels are optimised, random label logits, on the targets' device."""
        device = problem.matched.squares.device
        size, count = observation.model.image_size, problem.images
        shape = (attack.restarts, count, 3, size, size)
        images = initial_images(attack.init, shape, std=attack.init_std, generator=generator)
        leaves = [image.to(device).requires_grad_(True) for image in images]
        if problem.labels is not None:
            return cls(leaves, problem.labels, keep_last=attack._annealed)
        logits = torch.randn((attack.restarts, count, observation.model.classes), generator=generator)
        soft = [logit.to(device).requires_grad_(True) for logit in logits]
        return cls(leaves, soft, keep_last=attack._annealed)

    def parameters(self) -> list[list[Tensor]]:
        """Each candidate's leaf tensors."""
        if self.logits is None:
            return [[image] for image in self.images]
        return [[image, logit] for image, logit in zip(self.images, self.logits, strict=True)]

    def active(self) -> list[int]:
        """The candidates that still move."""
        return [i for i, ended in enumerate(self._ended) if not ended]

    def settle(self, scores: dict[int, Score], iteration: int, stop: EarlyStop | None) -> None:
        """Keep each candidate's best or last point; end those whose loss is not finite or has stopped improving."""
        for candidate, score in scores.items():
            if not math.isfinite(score.total):
                self._ended[candidate] = self._failed[candidate] = True
                continue
            if self._keep_last or score.total < self.best[candidate].total:
                self.best[candidate] = score
            since, reference = self._improved[candidate]
            if stop is None or score.total < reference - stop.min_delta:
                self._improved[candidate] = (iteration, score.total)
            elif iteration - since >= stop.patience:
                self._ended[candidate] = True

    @torch.no_grad()
    def clamp(self, bound: float | None) -> None:
        """Project the moving candidates onto the pixel range."""
        if bound is not None:
            for candidate in self.active():
                self.images[candidate].clamp_(-bound, bound)

    def result(self, history: Tensor, iterations: int) -> Reconstruction:
        """The best candidate by total loss among those that stayed finite; raises `AttackFailed` if none did."""
        alive = [i for i, failed in enumerate(self._failed) if not failed]
        if not alive:
            raise AttackFailed(f"All {len(self.images)} candidates met a loss that is not finite.")
        chosen = self.best[min(alive, key=lambda i: self.best[i].total)]
        labels = self.labels if chosen.logits is None else chosen.logits.argmax(dim=-1)
        if labels is None:
            raise AssertionError("a candidate has fixed labels or logits")
        return Reconstruction(
            images=_finished(chosen.images),
            labels=labels.cpu(),
            loss=chosen.match,
            candidates=torch.stack([_finished(self.best[i].images) for i in alive]),
            history=history,
            iterations=iterations,
            failed=sum(self._failed),
        )


class _Recorder:
    """Evaluates candidates for a stepper and remembers each one's first score, the point before the step."""

    def __init__(self, problem: Problem, candidates: Candidates, prior_factor: float) -> None:
        self.first: dict[int, Score] = {}
        self._problem, self._candidates, self._prior_factor = problem, candidates, prior_factor

    def __call__(self, which: list[int]) -> Tensor:
        leaves, logits = self._candidates.images, self._candidates.logits
        images = torch.stack([leaves[i] for i in which])
        soft = None if logits is None else torch.stack([logits[i] for i in which])
        total, match = self._problem.losses(images, soft, which, self._prior_factor)
        parameters = [leaf for i in which for leaf in self._candidates.parameters()[i]]
        gradients = torch.autograd.grad(total.sum(), parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        values = torch.stack([total.detach(), match.detach()]).tolist()
        for row, i in enumerate(which):
            if i not in self.first:
                kept = None if soft is None else soft[row].detach()
                self.first[i] = Score(values[0][row], values[1][row], images[row].detach(), kept)
        return total.detach()


def _finished(images: Tensor) -> Tensor:
    return images.detach().clamp(-1.0, 1.0).cpu()
