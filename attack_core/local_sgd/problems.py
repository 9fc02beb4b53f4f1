"""A way to explain a weight delta, put to one observation: what images are compared with, and their handles on it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from attack_core.base.types import Reconstruction
from attack_core.gradients.handles import GradientHandle, autograd_pays, gradient_handles, stack_handles
from attack_core.gradients.local_steps import (
    Batch,
    LocalPath,
    Shift,
    factored_weights,
    handles_at,
    path_handles,
    soft_loss,
)
from attack_core.gradients.targets import gradient_estimate, velocity_estimate, weights_along
from attack_core.gradients.tracing import Known, couples_examples
from attack_core.local_sgd.vib_noise import ThroughVib
from attack_core.metrics.metrics import assign
from attack_core.signal.signal_model import vib_of_images
from fl_core.base.types import ModelState
from fl_core.models.bottleneck import find_bottleneck
from fl_core.threat.observation import Observation


@dataclass(frozen=True, kw_only=True)
class SimulationLimits:
    """What the simulation of local steps keeps in memory."""

    kept_images: int = 32
    """Up to so many images in all steps, every step's activations are kept; above, steps are recomputed.

    Memory and time alone depend on it, no figure does. Not measured against other values.
    """


SIMULATION_LIMITS = SimulationLimits()
"""The limits in force."""


@dataclass(frozen=True)
class Count:
    """How many candidates there are, and how many images each reconstructs."""

    restarts: int
    images: int


class LocalProblem(Protocol):
    """A local model put to one observation: fixed while the loop runs."""

    @property
    def targets(self) -> dict[str, Tensor]:
        """What the handles are compared with, by parameter name, in units of a gradient."""

    @property
    def copies(self) -> int:
        """How many images stand for each one that is reconstructed; first all firsts, then all seconds."""

    @property
    def point(self) -> ModelState | None:
        """The weights at which all candidates' gradients are taken, where nothing else decides them; else None."""

    def leaves(self, candidate: int) -> list[Tensor]:
        """What is optimised beside the candidate's images."""

    def handles(self, images: Tensor, labels: Tensor, which: list[int]) -> dict[str, GradientHandle]:
        """Of candidates `which`: images (A, B, 3, S, S), label probabilities (A, B, K)."""

    def tie(self, images: Tensor, which: list[int]) -> Tensor:
        """A penalty (A,) on copies that disagree, or on what else is optimised, of candidates `which`."""


def averaged(observation: Observation, model: nn.Module, count: Count) -> LocalProblem:
    """That of `attack_core.local_sgd.simulation.Averaged`."""
    targets = gradient_estimate(observation)
    fact, found = vib_of_images(observation), find_bottleneck(model)
    if fact is None or found is None or couples_examples(model):
        return _AtPoint(model, observation.state, targets)
    return ThroughVib.of(
        observation, model, targets, found, fact, restarts=count.restarts, images=count.images
    )


def between(
    observation: Observation, model: nn.Module, count: Count, *, alpha: float, learn: bool
) -> LocalProblem:
    """That of `attack_core.local_sgd.simulation.Surrogate`."""
    targets = gradient_estimate(observation)
    if learn:
        device = next(iter(targets.values())).device
        start = torch.tensor(alpha).logit()
        free = [start.to(device, copy=True).requires_grad_(True) for _ in range(count.restarts)]
        return _Between(model, observation, targets, free, _factored(observation, model, count.images))
    return _AtPoint(model, weights_along(observation, alpha), targets)


def along_steps(
    assumed: Observation,
    model: nn.Module,
    count: Count,
    *,
    free: bool,
    tie_weight: float,
    checkpoint: bool | None,
) -> LocalProblem:
    """That of `attack_core.local_sgd.simulation.Simulated` for an observation with what is `assumed` of its steps."""
    batches = _batches(count.images, assumed.batch_size, assumed.steps, free=free)
    path = LocalPath(
        model=model,
        state=assumed.state,
        lr=assumed.lr,
        momentum=assumed.momentum,
        velocity=velocity_estimate(assumed),
        batches=batches,
        factored=_factored(assumed, model, max(map(len, batches))),
        checkpoint=_many(batches) if checkpoint is None else checkpoint,
    )
    copies = 1 + max(batch[-1] for batch in batches) // count.images
    return _AlongPath(path, gradient_estimate(assumed), copies, tie_weight)


def merge_copies(found: Reconstruction, copies: int) -> Reconstruction:
    """The reconstruction with each image's copies, found by assignment to the first ones, averaged."""
    if copies == 1:
        return found
    images = len(found.labels) // copies
    return dataclasses.replace(
        found,
        images=_merged(found.images, images),
        labels=found.labels[:images],
        candidates=torch.stack([_merged(candidate, images) for candidate in found.candidates]),
    )


def _merged(copies: Tensor, images: int) -> Tensor:
    first, *others = (copies[start : start + images] for start in range(0, len(copies), images))
    total = first.clone()
    for other in others:
        partners = [j for j in assign(other, first) if j is not None]
        total += other[partners]
    return total / (1 + len(others))


def _batches(images: int, size: int, steps: int, *, free: bool) -> tuple[Batch, ...]:
    """Each step's image slots: an epoch's batches over and over.

    With `free` over each whole epoch's own copies; steps beyond the last whole epoch take the first copies again.
    """
    epoch = [tuple(range(start, min(start + size, images))) for start in range(0, images, size)]
    found = []
    whole = steps // len(epoch)
    for step in range(steps):
        number, position = divmod(step, len(epoch))
        shift = number * images if free and number < whole else 0
        found.append(tuple(slot + shift for slot in epoch[position]))
    return tuple(found)


def _factored(observation: Observation, model: nn.Module, images: int) -> tuple[str, ...]:
    """`factored_weights` for batches of so many images."""
    device = next(iter(observation.state.parameters.values())).device
    shape = observation.model.shape
    ramp = torch.linspace(-1.0, 1.0, images * shape.numbers, device=device)
    return factored_weights(model, observation.state, ramp.view(images, *shape.size))


def _many(batches: tuple[Batch, ...], limits: SimulationLimits = SIMULATION_LIMITS) -> bool:
    return sum(map(len, batches)) > limits.kept_images


class _Plain:
    """A problem that optimises images alone, whose copies need no tie."""

    point: ModelState | None = None

    def leaves(self, candidate: int) -> list[Tensor]:  # noqa: ARG002
        """See `LocalProblem`."""
        return []

    def tie(self, images: Tensor, which: list[int]) -> Tensor:  # noqa: ARG002
        """See `LocalProblem`."""
        return images.new_zeros(len(images))


@dataclass(frozen=True)
class _AtPoint(_Plain):
    """The mean gradient at fixed weights."""

    model: nn.Module
    state: ModelState
    targets: dict[str, Tensor]
    copies: int = 1
    known: Known = field(default_factory=Known)

    @property
    def point(self) -> ModelState:  # type: ignore[override]  # read alone
        """See `LocalProblem`."""
        return self.state

    def handles(
        self,
        images: Tensor,
        labels: Tensor,
        which: list[int],  # noqa: ARG002
    ) -> dict[str, GradientHandle]:
        """See `LocalProblem`."""
        return gradient_handles(
            self.model,
            self.state,
            images,
            soft_loss(labels),
            linear_only=autograd_pays(self.state, len(images)),
            known=self.known,
        )


@dataclass(frozen=True)
class _Between(_Plain):
    """The mean gradient at w0 + sigmoid(free) delta, each candidate at its own point."""

    model: nn.Module
    observation: Observation
    targets: dict[str, Tensor]
    free: list[Tensor]
    factored: tuple[str, ...]
    copies: int = 1
    known: Known = field(default_factory=Known)

    def leaves(self, candidate: int) -> list[Tensor]:
        """See `LocalProblem`."""
        return [self.free[candidate]]

    def handles(self, images: Tensor, labels: Tensor, which: list[int]) -> dict[str, GradientHandle]:
        """See `LocalProblem`."""
        points = [self._at(self.free[candidate].sigmoid()) for candidate in which]
        return stack_handles(
            [
                handles_at(self.model, state, shifts, images[i : i + 1], labels[i : i + 1], self.known)
                for i, (state, shifts) in enumerate(points)
            ]
        )

    def _at(self, alpha: Tensor) -> tuple[ModelState, dict[str, Shift]]:
        """The weights at `alpha`: linear ones as shifts, so that no tensor of their size is differentiated."""
        delta, start = self.observation.tensors, self.observation.state
        moved = {
            name: value if name in self.factored else value + alpha * delta[name]
            for name, value in start.parameters.items()
        }
        state = ModelState(parameters=moved, buffers=start.buffers)
        return state, {name: partial(_along, delta[name], alpha) for name in self.factored}


def _along(delta: Tensor, alpha: Tensor, inputs: Tensor) -> Tensor:
    return alpha * (inputs @ delta.mT)


@dataclass(frozen=True)
class _AlongPath(_Plain):
    """The weighted mean of the gradients along a simulated path."""

    path: LocalPath
    targets: dict[str, Tensor]
    copies: int
    tie_weight: float

    def handles(
        self,
        images: Tensor,
        labels: Tensor,
        which: list[int],  # noqa: ARG002
    ) -> dict[str, GradientHandle]:
        """See `LocalProblem`."""
        return stack_handles([path_handles(self.path, *pair) for pair in zip(images, labels, strict=True)])

    def tie(self, images: Tensor, which: list[int]) -> Tensor:  # noqa: ARG002
        """See `LocalProblem`."""
        epochs = images.unflatten(1, (self.copies, -1))
        features = torch.cat([epochs, epochs.square()], dim=3).mean(2)
        spread = (features - features.mean(1, keepdim=True)).square().flatten(1)
        return self.tie_weight * spread.mean(1)
