"""The analytic attack: solve the fully connected layers exactly, then invert the features.

No double backward, no label, no restarts: the layer inputs follow from linear algebra (`dense`, `disaggregation`), and
the image is found whose features they are (the inversion of Mahendran and Vedaldi 2015, arXiv:1412.0035, with exact
features). Where the network has fewer features than pixels, the gradients of the layers in front refine the answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from attack_core.coordinates import CosineCoordinates
from attack_core.dense import Estimate, Shares, estimate_error, recover_shares
from attack_core.descent import Descent, Mismatch
from attack_core.disaggregation import Inseparable
from attack_core.layers import couples_examples, gradient_handles
from attack_core.matching import Matching
from attack_core.refinement import equations_mismatch, feature_mismatch
from attack_core.tail import Prefix, Tail, find_tail
from attack_core.targets import check_observation, gradient_estimate, travelled
from attack_core.types import Progress, Reconstruction
from fl_core.errors import InputError
from fl_core.threat import Noise, Observation
from fl_core.types import Config, ModelState, Tensors, require


@dataclass(frozen=True, kw_only=True)
class Analytic(Config):
    """Layer inputs by linear algebra, images by feature inversion, one after the other.

    `estimate` is how one image's layer input is read: `auto` takes `rank_one` where the noise is known and
    `weighted` otherwise. `inversion` starts at the mean public image, or at grey where there is none. `refine`
    says whether the earlier layers' gradients follow with `refinement`: `auto` where features are fewer than pixels
    and no noise is known. Batches are taken apart in at most `rounds` rounds, to a relative residual of `tolerance`,
    or of `drift_tolerance` where the weights moved between the images. Where that fails, `fallback` runs on the
    same observation and the notes say why.
    """

    kind: Literal["analytic"] = "analytic"
    estimate: Literal["auto"] | Estimate = "auto"
    inversion: Descent = field(default_factory=Descent)
    refine: Literal["auto", "always", "never"] = "auto"
    refinement: Descent = field(default_factory=partial(Descent, evaluations=300))
    rounds: int = 100
    tolerance: float = 1e-3
    drift_tolerance: float = 0.1
    fallback: Matching = field(default_factory=Matching)

    def __post_init__(self) -> None:
        require(self.rounds >= 1, self, "rounds", "at least 1")
        require(0 < self.tolerance < 1, self, "tolerance", "in (0, 1)")
        require(0 < self.drift_tolerance < 1, self, "drift_tolerance", "in (0, 1)")

    def __call__(
        self,
        observation: Observation,
        model: nn.Module,
        generator: torch.Generator,
        *,
        progress: Progress | None = None,
    ) -> Reconstruction:
        """Run the attack; see `attack_core.types.Attack`. The loss is the relative squared L2 distance of gradients.

        Raises `InputError` for a signal that does not fit the model, and `AttackFailed` as `fallback` does.
        """
        check_observation(observation)
        try:
            problem = _Problem.of(self, observation, model, generator)
        except Inseparable as reason:
            found = self.fallback(observation, model, generator, progress=progress)
            return replace(found, notes=(f"analytic: {reason}; fell back to matching", *found.notes))
        return problem.solve(self, generator, progress)


@dataclass(frozen=True, kw_only=True)
class _Problem:
    """What is to be inverted: fixed while the descent runs."""

    model: nn.Module
    observation: Observation
    state: ModelState
    gradients: Tensors
    tail: Tail
    shares: Shares
    error: float

    @classmethod
    def of(
        cls, attack: Analytic, observation: Observation, model: nn.Module, generator: torch.Generator
    ) -> _Problem:
        """Solve the fully connected layers; raises `Inseparable`."""
        if couples_examples(model):
            raise Inseparable("BatchNorm in train mode mixes the images of a batch")
        try:
            tail = find_tail(model, observation.state, observation.model.image_size)
        except InputError as reason:
            raise Inseparable(str(reason)) from None
        state, moved = halfway(observation)
        gradients = gradient_estimate(observation)
        sigma = noise_level(observation)
        chosen: Estimate = "rank_one" if sigma > 0 else "weighted"
        shares = recover_shares(
            gradients,
            state.parameters,
            tail,
            observation.examples,
            generator,
            estimate=chosen if attack.estimate == "auto" else attack.estimate,
            rounds=attack.rounds,
            tolerance=attack.drift_tolerance if moved else attack.tolerance,
        )
        error = estimate_error(shares.errors, shares.inputs, sigma) if sigma > 0 else 0.0
        return cls(
            model=model,
            observation=observation,
            state=state,
            gradients=gradients,
            tail=tail,
            shares=shares,
            error=error,
        )

    def solve(
        self, attack: Analytic, generator: torch.Generator, progress: Progress | None
    ) -> Reconstruction:
        """Images from the layer inputs."""
        size = self.observation.model.image_size
        notes = [self._note()]
        if self.tail.pixels:
            images = self.shares.inputs.view(-1, 3, size, size)
            return self._result("analytic: layer input", images, [], notes)
        prefix = Prefix(self.model, self.state, self.tail.first)
        features, pixels = self.shares.inputs.shape[1], 3 * size * size
        # Fewer equations than unknowns: the prior has to decide more.
        stiffness = max(1.0, pixels / features) ** 2
        scarce = features < pixels and self.error == 0
        refined = attack.refine == "always" or (attack.refine == "auto" and scarce)
        planned = attack.inversion.evaluations * len(self.shares.inputs)
        planned += attack.refinement.evaluations if refined else 0
        seen: list[float] = []
        report = _reporter(seen, planned, progress)
        measure = partial(CosineCoordinates.measured, prefix, generator=generator)
        images = torch.cat(
            [
                attack.inversion.minimise(
                    feature_mismatch(prefix, target),
                    self._start(),
                    measure=measure,
                    stiffness=stiffness,
                    error=self.error,
                    report=report,
                )
                for target in self.shares.inputs[:, None]
            ]
        )
        if not refined:
            return self._result("analytic: features", images, seen, notes)
        if scarce:
            notes.append(f"{features} features for {pixels} pixels: refined by the earlier layers' gradients")
        mismatch: Mismatch = equations_mismatch(
            self.model, self.state, self.tail, self.gradients, self.shares.inputs, self.shares.errors
        )
        images = attack.refinement.minimise(mismatch, images, stiffness=stiffness, report=report)
        return self._result("analytic: features, refined", images, seen, notes)

    def _start(self) -> Tensor:
        mean = self.observation.public_mean
        if mean is None:
            size = self.observation.model.image_size
            mean = torch.zeros((3, size, size), device=self.shares.inputs.device)
        return mean[None]

    def _note(self) -> str:
        images = len(self.shares.inputs)
        layer = self.tail.layers[-2] if images > 1 else self.tail.first
        what = "the input" if images == 1 else f"the inputs of {images} images"
        note = f"{what} of layer {layer} from its gradients, residual {self.shares.residual:.1e}"
        return note if self.error == 0 else f"{note}; known noise: expected relative error {self.error:.1e}"

    def _result(self, method: str, images: Tensor, seen: list[float], notes: list[str]) -> Reconstruction:
        images = images.detach().clamp(-1.0, 1.0)
        labels = self.shares.labels
        history = torch.tensor(seen or [0.0])[:, None]
        return Reconstruction(
            images=images.cpu(),
            labels=labels.cpu(),
            loss=gradient_mismatch(self.model, self.state, self.gradients, images, labels),
            candidates=images.cpu()[None],
            history=history,
            iterations=len(seen),
            failed=0,
            method=method,
            notes=tuple(notes),
        )


def halfway(observation: Observation) -> tuple[ModelState, bool]:
    """The weights that the signal's gradients were taken at, and whether they are only about those.

    A client's local steps start at the round's weights and end at known ones; the point halfway is the best single
    stand-in. An aggregate says nothing of where each client ended.
    """
    state = observation.state
    moved = observation.signal != "gradients" and observation.steps > 1
    if not moved or observation.clients > 1:
        return state, moved
    parameters = {name: value + 0.5 * observation.tensors[name] for name, value in state.parameters.items()}
    return ModelState(parameters=parameters, buffers=state.buffers), moved


def noise_level(observation: Observation) -> float:
    """Standard deviation of the known noise on `gradient_estimate`'s numbers; 0.0 where none is known."""
    sigma = math.sqrt(sum(fact.sigma**2 for fact in observation.facts if isinstance(fact, Noise)))
    if observation.signal == "gradients":
        return sigma
    return sigma / (observation.lr * travelled(observation.momentum, observation.steps))


@torch.no_grad()
def gradient_mismatch(
    model: nn.Module, state: ModelState, gradients: Tensors, images: Tensor, labels: Tensor
) -> float:
    """Relative squared L2 distance of the gradient of `images` (B, 3, S, S) with `labels` (B,) from `gradients`."""
    with torch.enable_grad():
        handles = gradient_handles(
            model,
            state,
            images[None].clone().requires_grad_(True),
            lambda logits: functional.cross_entropy(logits[0], labels)[None],
        )
    squares = {name: gradient.square().sum() for name, gradient in gradients.items()}
    distance = sum(
        float(handle.squared_distance(gradients[name], squares[name])) for name, handle in handles.items()
    )
    return distance / float(torch.stack(list(squares.values())).sum())


def _reporter(seen: list[float], planned: int, progress: Progress | None) -> Callable[[float], None]:
    def report(mismatch: float) -> None:
        seen.append(mismatch)
        if progress is not None:
            progress(len(seen), max(planned, len(seen)), min(seen))

    return report
