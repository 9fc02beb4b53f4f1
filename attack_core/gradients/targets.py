"""From an observed signal to the gradient that matching aims at."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fl_core.base.errors import InputError
from fl_core.base.types import ModelState, Tensors
from fl_core.threat.observation import Observation


def gradient_estimate(observation: Observation) -> dict[str, Tensor]:
    """The batch gradient itself, or for weight deltas the mean gradient that would explain them.

    T steps of SGD with momentum m from velocity v under a constant gradient g move the weights by
    -lr (A v + S g) with A = m + m^2 + ... + m^T and S = sum over t of (1 + m + ... + m^(t-1)). So g is
    (-delta / lr - A v) / S, with v as `velocity_estimate` has it: after one step the true gradient wherever v is
    exact, after several a mean of the steps' gradients. In the model's own order of parameters.
    """
    ordered = {name: observation.tensors[name] for name in observation.state.parameters}
    if observation.signal == "gradients":
        return ordered
    return _mean_gradient(observation, ordered, observation.steps, velocity_estimate(observation))


def velocity_estimate(observation: Observation) -> dict[str, Tensor]:
    """The client's momentum buffers at the start of the round, from its earlier updates; {} where there are none.

    Round after round, with the model of `gradient_estimate`: g follows from the round's delta and the velocity v
    at its start, and T steps leave m^T v + (1 + m + ... + m^(T-1)) g. Exact where the client's last round had one
    step (it leaves -delta / lr), whatever the rounds before it. A clipped or noisy update gives a clipped or noisy
    estimate.
    """
    m, velocity = observation.momentum, dict[str, Tensor]()
    for update in observation.earlier:
        ordered = {name: update.tensors[name] for name in observation.state.parameters}
        gradient = _mean_gradient(observation, ordered, update.steps, velocity)
        gain, kept = geometric(m, update.steps), m**update.steps
        velocity = {
            name: gain * value + (kept * velocity[name] if velocity else 0.0)
            for name, value in gradient.items()
        }
    return velocity


def weights_along(observation: Observation, share: float) -> ModelState:
    """The weights a `share` of the way from those before a weight delta to those after it."""
    start = observation.state
    moved = {name: value + share * observation.tensors[name] for name, value in start.parameters.items()}
    return ModelState(parameters=moved, buffers=start.buffers)


def geometric(momentum: float, count: int) -> float:
    """1 + m + ... + m^(count-1): how far a gradient carries that acts first on the first of `count` steps."""
    return (1.0 - momentum**count) / (1.0 - momentum)


def travelled(momentum: float, steps: int) -> float:
    """How many times -lr a constant gradient `steps` steps from zero velocity move the weights."""
    return sum(geometric(momentum, t) for t in range(1, steps + 1))


def _mean_gradient(
    observation: Observation, delta: Tensors, steps: int, velocity: Tensors
) -> dict[str, Tensor]:
    m = observation.momentum
    path = travelled(m, steps)
    scale, carried = -1.0 / (observation.lr * path), m * geometric(m, steps) / path
    if not velocity:
        return {name: tensor * scale for name, tensor in delta.items()}
    return {name: tensor * scale - velocity[name] * carried for name, tensor in delta.items()}


def check_observation(observation: Observation) -> None:
    """Refuse an observation that contradicts itself or its model, naming the tensor or field (`InputError`).

    Tensors that are missing, left over, of another shape or type than the model's or not finite, in the signal, in
    earlier updates and in the weights; labels that are no classes or not one for each image; counts that the signal
    cannot have.
    """
    parameters = observation.state.parameters
    _check_counts(observation)
    for kind, tensors in (("weights", parameters), ("buffers", observation.state.buffers)):
        for name, tensor in tensors.items():
            _check_finite(name, tensor, f"the {kind}")
    _check_tensors(observation.tensors, parameters, "the signal")
    _check_statistics(observation)
    for update in observation.earlier:
        if update.steps < 1:
            raise InputError(
                f"The update of round {update.round} has steps = {update.steps}: must be at least 1."
            )
        _check_tensors(update.tensors, parameters, f"the update of round {update.round}")
    for later in observation.later:
        check_observation(later)
    if observation.labels is not None:
        _check_labels(observation.labels, observation)
    if observation.public_mean is not None:
        _check_shape("public_mean", observation.public_mean, observation.model.shape.size, "the observation")
        _check_finite("public_mean", observation.public_mean, "the observation")


def _check_statistics(observation: Observation) -> None:
    """What is seen of BatchNorm's statistics has to be of buffers that the model has, and has to count batches."""
    buffers, owner = observation.state.buffers, "the statistics' change"
    for name, change in observation.statistics.items():
        if name not in buffers:
            raise InputError(f"{_sentence(owner)} holds tensor {name!r}, which the model lacks.")
        _check_shape(name, change, tuple(buffers[name].shape), owner)
        _check_finite(name, change, owner)
        if name.endswith("num_batches_tracked") and not float(change) > 0:
            raise InputError(
                f"Tensor {name!r} of {owner} is {float(change):g}: must be the number of batches."
            )


def _check_tensors(tensors: Tensors, parameters: Tensors, owner: str) -> None:
    for name in parameters:
        if name not in tensors:
            raise InputError(f"{_sentence(owner)} lacks tensor {name!r}, which the model has.")
    for name, tensor in tensors.items():
        if name not in parameters:
            raise InputError(f"{_sentence(owner)} holds tensor {name!r}, which the model lacks.")
        _check_shape(name, tensor, tuple(parameters[name].shape), owner)
        if tensor.dtype != parameters[name].dtype:
            raise InputError(
                f"Tensor {name!r} of {owner} is {tensor.dtype}; the model's is {parameters[name].dtype}."
            )
        _check_finite(name, tensor, owner)


def _check_shape(name: str, tensor: Tensor, shape: tuple[int, ...], owner: str) -> None:
    if tuple(tensor.shape) != shape:
        raise InputError(
            f"Tensor {name!r} of {owner} has shape {tuple(tensor.shape)}; the model's is {shape}."
        )


def _check_finite(name: str, tensor: Tensor, owner: str) -> None:
    if not _all_finite(tensor):
        raise InputError(f"Tensor {name!r} of {owner} holds values that are not finite.")


def _all_finite(tensor: Tensor) -> bool:
    """By the extremes, which a NaN is: of large gradients in a tenth of the time of asking for each number."""
    if not tensor.numel() or not tensor.is_floating_point():
        return True
    return bool(torch.isfinite(torch.stack(torch.aminmax(tensor))).all())


def _check_labels(labels: Tensor, observation: Observation) -> None:
    if labels.dtype != torch.int64 or labels.dim() != 1:
        raise InputError(
            f"Tensor 'labels' is {labels.dtype} of shape {tuple(labels.shape)}: must be torch.int64 of shape (N,)."
        )
    if len(labels) != observation.examples:
        raise InputError(
            f"{len(labels)} labels are known, but the signal holds {observation.examples} images."
        )
    classes = observation.model.outputs
    for label in labels.tolist():
        if not 0 <= label < classes:
            raise InputError(f"A known label, {label}, is outside 0 to {classes - 1}.")


def _check_counts(observation: Observation) -> None:
    """What the numbers beside the tensors must satisfy."""
    o = observation
    single = o.signal in ("gradients", "one_step_update")
    images = o.batch_size * o.steps * o.clients
    rules = (
        ("examples", o.examples >= 1, "at least 1"),
        ("clients", o.clients >= 1, "at least 1"),
        ("batch_size", o.batch_size >= 1, "at least 1"),
        ("steps", o.steps >= 1, "at least 1"),
        ("lr", 0 < o.lr < math.inf, "a finite number above 0"),
        ("momentum", 0 <= o.momentum < 1, "in [0, 1)"),
        ("steps", not single or o.steps == 1, f"1 for signal {o.signal!r}"),
        (
            "examples",
            o.examples <= images,
            f"at most {images}: batch_size {o.batch_size}, steps {o.steps}, clients {o.clients}",
        ),
        ("earlier", not o.earlier or o.signal != "agg_update", "empty for signal 'agg_update'"),
        ("earlier", not o.earlier or o.clients == 1, "empty for the mean of several clients"),
        ("later", not o.later or (single and o.clients == 1), "empty but for one client's single steps"),
        (
            "later",
            all(_same_kind(each, o) for each in o.later),
            "rounds of the same images, signal and network",
        ),
    )
    for name, holds, rule in rules:
        if not holds:
            value = getattr(o, name)
            value = len(value) if isinstance(value, tuple) else value
            raise InputError(f"Observation.{name} = {value!r}: must be {rule}.")


def _same_kind(later: Observation, first: Observation) -> bool:
    """Whether a later round can hold the same images as the first."""
    same = (later.signal, later.examples, later.clients) == (first.signal, first.examples, first.clients)
    return same and later.model == first.model and not later.later


def _sentence(owner: str) -> str:
    return owner[0].upper() + owner[1:]


def sees_images_again(observation: Observation) -> bool:
    """Whether one client took more steps than one pass over its images has."""
    once = -(-observation.examples // (observation.batch_size * observation.clients))
    return observation.signal == "local_update" and observation.clients == 1 and observation.steps > once


def mean_progress(observation: Observation) -> float:
    """How far along its delta a client's weights were when it took its steps, weighted as the steps count in it.

    For even progress from zero velocity, a share of the delta: just below one half without momentum, less with it, as
    early gradients act longest.
    """
    m, steps = observation.momentum, observation.steps
    whole = travelled(m, steps)
    return sum(geometric(m, steps - step) * travelled(m, step) for step in range(steps)) / whole**2
