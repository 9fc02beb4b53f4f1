"""Which local step used which image, and the weights at that step, from a weight delta over several steps.

Once the shares of a delta are known, the fully connected end of the network can be trained again without any image:
its inputs are known. At the first step the weights are known too, so the images of that step are those whose errors
the weights explain; their gradients give the weights of the second step, and so on. The weights in front follow from
estimates of the images in that order, or without them from even progress along the delta.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.linalg import vector_norm
from torch.nn import functional

from attack_core.fc.head import Head, head_errors, passed_through
from attack_core.fc.inversion import Shares
from attack_core.gradients.local_steps import Batch
from attack_core.gradients.targets import (
    geometric,
    gradient_estimate,
    travelled,
    velocity_estimate,
    weights_along,
)
from attack_core.signal.signal_model import mixes_labels
from fl_core.base.decibels import TINY
from fl_core.base.types import ModelState, Tensors
from fl_core.federation.client import LocalTraining, Trained, difference, gradient_of, train_locally
from fl_core.threat.observation import Observation


@dataclass(frozen=True)
class Order:
    """The image slots of each local step, and the largest relative error with which a step explains an image."""

    batches: tuple[Batch, ...]
    misfit: float

    def step_of(self, image: int) -> int:
        """The step (from 0) that saw `image`."""
        return next(step for step, batch in enumerate(self.batches) if image in batch)


def find_order(observation: Observation, head: Head, shares: Shares) -> Order:
    """Give every image of `shares` to a local step, one epoch through; a single step takes all of them.

    Step by step the images are taken whose errors the weights at that step explain best. Shares that are wrong are
    explained by no step, so the misfit says whether the gradient was taken apart rightly. One factor that shortens a
    single step's errors alike, as clipping does, is let pass.
    """
    total = observation.examples
    names = [f"{layer}.{kind}" for layer in head.layers for kind in ("weight", "bias")]
    weights = {name: observation.state.parameters[name] for name in names}
    labels = _soft_labels(weights, head, shares) if mixes_labels(observation) else shares.labels
    velocity = {name: value for name, value in velocity_estimate(observation).items() if name in weights}
    left, batches, misfit = list(range(total)), list[Batch](), 0.0
    for step in range(observation.steps):
        size = len(left) if observation.steps == 1 else min(observation.batch_size, len(left))
        scale = _share_of_step(observation, step) / size
        errors = head_errors(weights, head, shares.inputs[left], labels[left]) * scale
        observed = shares.errors[left]
        if observation.steps == 1:
            # A clipped gradient is a shorter one, whatever its parts.
            errors = errors * ((errors * observed).sum() / errors.square().sum()).clamp_min(0.0)
        misfits = vector_norm(errors - observed, dim=1) / vector_norm(observed, dim=1).clamp_min(TINY)
        chosen = misfits.argsort(stable=True)[:size].tolist()
        misfit = max(misfit, float(misfits[chosen].max()))
        batch = tuple(sorted(left[i] for i in chosen))
        gradient = _head_gradient(weights, head, shares.inputs[list(batch)], labels[list(batch)])
        weights, velocity = _stepped(observation, weights, velocity, gradient)
        left = [image for image in left if image not in batch]
        batches.append(batch)
    return Order(tuple(batches), misfit)


def even_states(observation: Observation) -> list[ModelState]:
    """The weights before each local step if every step had the same gradient."""
    states = []
    mean, velocity = gradient_estimate(observation), velocity_estimate(observation)
    lr, m, start = observation.lr, observation.momentum, observation.state
    for step in range(observation.steps):
        carried, path = m * geometric(m, step), travelled(m, step)
        parameters = {}
        for name, value in start.parameters.items():
            moved = path * mean[name] + (carried * velocity[name] if velocity else 0.0)
            parameters[name] = value - lr * moved
        states.append(_state(parameters, start))
    return states


@dataclass(frozen=True)
class Simulation:
    """The weights before each local step, and how far the last step ends from the observed delta.

    `missed` is the squared distance over the delta's square.
    """

    states: tuple[ModelState, ...]
    missed: float


def simulate(
    observation: Observation, model: nn.Module, images: Tensor, labels: Tensor, order: Order
) -> Simulation:
    """Local training if the client held `images` (B, 3, S, S) with `labels` (B,) in `order`.

    What the last step misses of the delta is spread evenly over the steps before it.
    """
    start, local = observation.state, LocalTraining(lr=observation.lr, momentum=observation.momentum)
    trained = Trained(state=start, steps=0, velocity=velocity_estimate(observation))
    states = [start]
    for batch in order.batches:
        chosen = list(batch)
        step = [(images[chosen], labels[chosen])]
        trained = train_locally(model, trained.state, step, local, velocity=trained.velocity)
        states.append(trained.state)
    missed = difference(weights_along(observation, 1.0).parameters, trained.state.parameters)
    whole = travelled(observation.momentum, observation.steps)
    shares = [travelled(observation.momentum, step) / whole for step in range(observation.steps)]
    corrected = [
        _state({name: value + share * missed[name] for name, value in state.parameters.items()}, start)
        for share, state in zip(shares, states, strict=False)
    ]
    squares = sum(float(value.square().sum()) for value in missed.values())
    whole_square = sum(float(value.square().sum()) for value in observation.tensors.values())
    return Simulation(tuple(corrected), squares / whole_square)


def _state(weights: Tensors, like: ModelState) -> ModelState:
    return ModelState(parameters=weights, buffers=like.buffers)


def _share_of_step(observation: Observation, step: int) -> float:
    """How much of the estimated mean gradient is step number `step`'s (from 0)."""
    m, steps = observation.momentum, observation.steps
    return geometric(m, steps - step) / travelled(m, steps)


def _stepped(
    observation: Observation, weights: Tensors, velocity: Tensors, gradient: Tensors
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights and momentum buffers after one step of SGD."""
    m, lr = observation.momentum, observation.lr
    moved = {
        name: value + (m * velocity[name] if name in velocity else 0.0) for name, value in gradient.items()
    }
    return {name: value - lr * moved[name] for name, value in weights.items()}, moved


def _soft_labels(weights: Tensors, head: Head, shares: Shares) -> Tensor:
    """The label probabilities (B, K) that explain each image's errors at the output in a single step."""
    probabilities = passed_through(weights, head.layers, shares.inputs).softmax(dim=1)
    return (probabilities - len(shares.inputs) * shares.logit_errors).clamp(0.0, 1.0)


def _head_gradient(weights: Tensors, head: Head, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The gradient of the mean loss over a batch for the fully connected end."""
    moving = {name: value.detach().requires_grad_(True) for name, value in weights.items()}
    return gradient_of(functional.cross_entropy(passed_through(moving, head.layers, inputs), labels), moving)
