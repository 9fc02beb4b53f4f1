"""What a candidate's local training would have done: the three ways to compare images with a weight delta.

All of them aim at `gradient_estimate`, -delta / lr over the path that momentum travels, and give handles on what the
candidate images would have put in its place:

- `Averaged`: their mean gradient at the weights that the client started from (the original project's).
- `Surrogate`: their mean gradient at a point between those weights and the ones that it ended at.
- `Simulated`: the weighted mean of the gradients of all the steps that a client holding them would have taken.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal, Protocol

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
from attack_core.gradients.tracing import couples_examples
from attack_core.local_sgd.vib_noise import ThroughVib
from attack_core.metrics.metrics import assign
from attack_core.signal.signal_model import vib_of_images
from fl_core.base.errors import InputError
from fl_core.base.types import Config, InUnits, ModelState, require
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


@dataclass(frozen=True, kw_only=True)
class Averaged(Config):
    """One virtual batch at the starting weights: exact for one step, the baseline for more."""

    kind: Literal["averaged"] = "averaged"

    def prepare(self, observation: Observation, model: nn.Module, count: Count) -> LocalProblem:
        """The problem that `observation` poses to candidates of the number and size in `count`."""
        targets = gradient_estimate(observation)
        fact, found = vib_of_images(observation), find_bottleneck(model)
        if fact is None or found is None or couples_examples(model):
            return _AtPoint(model, observation.state, targets)
        return ThroughVib.of(
            observation, model, targets, found, fact, restarts=count.restarts, images=count.images
        )


@dataclass(frozen=True, kw_only=True)
class Surrogate(Config):
    """One virtual batch at w0 + alpha (wT - w0), `alpha` in [0, 1].

    Zhu et al. 2023, arXiv:2305.19101 (surrogate model extension): somewhere between the weights before and after,
    the gradient over all images points along the delta. With `learn` each candidate's alpha is optimised with its
    images, as the sigmoid of a free number that starts at `alpha`. Meant for the cosine objective, since lengths
    say little there. Takes every signal but `gradients`.
    """

    kind: Literal["surrogate"] = "surrogate"
    alpha: float = 0.5
    learn: bool = True

    def __post_init__(self) -> None:
        require(0 <= self.alpha <= 1, self, "alpha", "in [0, 1]")
        inside = not self.learn or 0 < self.alpha < 1
        require(inside, self, "alpha", "inside (0, 1) where it is learned, since an end is never left")

    def prepare(self, observation: Observation, model: nn.Module, count: Count) -> LocalProblem:
        """See `Averaged.prepare`; raises `InputError` for the signal `gradients`."""
        if observation.signal == "gradients":
            raise InputError("The surrogate model needs the weights after training: use a weight update.")
        targets = gradient_estimate(observation)
        if self.learn:
            device = next(iter(targets.values())).device
            start = torch.tensor(self.alpha).logit()
            free = [start.to(device, copy=True).requires_grad_(True) for _ in range(count.restarts)]
            return _Between(model, observation, targets, free, _factored(observation, model, count.images))
        return _AtPoint(model, weights_along(observation, self.alpha), targets)


@dataclass(frozen=True, kw_only=True)
class Simulated(Config):
    """The client's SGD step by step, differentiated through (Dimitrov et al. 2022, arXiv:2206.12395).

    `lr`, `momentum` and `batch_size` are those of the observation (None) or assumed; so are `epochs`, whose number
    decides the number of steps. Momentum starts at `velocity_estimate`. Step t takes the t-th batch of the images;
    in later epochs again the same batches with order `known`. With `free` every epoch has its own copies of the
    images, tied by an order-invariant penalty: `tie_weight` times the squared distance of each epoch's mean of pixels
    and of squared pixels from the mean over epochs. In the end the copies are assigned to each other and averaged.

    `checkpoint` recomputes each step on the way back instead of keeping its activations (None: from more than 32
    images in all steps on). The figures are the same, memory grows with one step instead of all, time by about 40%.
    """

    kind: Literal["simulated"] = "simulated"
    lr: float | None = None
    momentum: float | None = None
    epochs: Annotated[int | None, InUnits("epochs")] = None
    batch_size: Annotated[int | None, InUnits("images")] = None
    order: Literal["known", "free"] = "known"
    tie_weight: float = 1.0
    checkpoint: bool | None = None

    def __post_init__(self) -> None:
        require(self.lr is None or self.lr > 0, self, "lr", "more than 0, or null for the observation's")
        require(self.momentum is None or 0 <= self.momentum < 1, self, "momentum", "in [0, 1), or null")
        require(self.epochs is None or self.epochs >= 1, self, "epochs", "at least 1, or null")
        require(self.batch_size is None or self.batch_size >= 1, self, "batch_size", "at least 1, or null")
        require(self.tie_weight >= 0, self, "tie_weight", "at least 0")

    def prepare(self, observation: Observation, model: nn.Module, count: Count) -> LocalProblem:
        """See `Averaged.prepare`.

        Raises `InputError` for the sum of several clients, for fewer images than the signal holds, and where the
        assumed steps do not reach every image.
        """
        if observation.clients > 1:
            raise InputError(
                f"Simulated follows one client's steps, but the signal is the mean of {observation.clients} "
                "clients: use the local model 'averaged' or 'surrogate'."
            )
        if count.images != observation.examples:
            raise InputError(
                f"Simulated trains on all {observation.examples} images of the signal: Matching.images = "
                f"{count.images} does not go with it."
            )
        assumed = self._assumed(observation)
        batches = _batches(count.images, assumed.batch_size, assumed.steps, free=self.order == "free")
        path = LocalPath(
            model=model,
            state=assumed.state,
            lr=assumed.lr,
            momentum=assumed.momentum,
            velocity=velocity_estimate(assumed),
            batches=batches,
            factored=_factored(observation, model, max(map(len, batches))),
            checkpoint=_many(batches) if self.checkpoint is None else self.checkpoint,
        )
        copies = 1 + max(batch[-1] for batch in batches) // count.images
        return _AlongPath(path, gradient_estimate(assumed), copies, self.tie_weight)

    def _assumed(self, observation: Observation) -> Observation:
        """The observation with what this attacker assumes in the place of what is known."""
        size = self.batch_size or observation.batch_size
        an_epoch = -(-observation.examples // size)
        steps = self.epochs * an_epoch if self.epochs else observation.steps
        if steps < an_epoch:
            raise InputError(
                f"{steps} steps of batch size {size} do not reach all {observation.examples} images of the signal; "
                "assume a larger Simulated.batch_size."
            )
        return dataclasses.replace(
            observation,
            lr=observation.lr if self.lr is None else self.lr,
            momentum=observation.momentum if self.momentum is None else self.momentum,
            batch_size=size,
            steps=steps,
        )


LocalModel = Averaged | Simulated | Surrogate
"""Every way to explain a weight delta."""


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

    def leaves(self, candidate: int) -> list[Tensor]:
        """See `LocalProblem`."""
        return [self.free[candidate]]

    def handles(self, images: Tensor, labels: Tensor, which: list[int]) -> dict[str, GradientHandle]:
        """See `LocalProblem`."""
        points = [self._at(self.free[candidate].sigmoid()) for candidate in which]
        return stack_handles(
            [
                handles_at(self.model, state, shifts, images[i : i + 1], labels[i : i + 1])
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
