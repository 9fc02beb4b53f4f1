"""From an observed signal to the gradient that matching aims at."""

from __future__ import annotations

import torch
from torch import Tensor

from fl_core.errors import InputError
from fl_core.threat import Observation


def gradient_estimate(observation: Observation) -> dict[str, Tensor]:
    """The batch gradient itself, or for weight deltas the mean gradient that would explain them.

    A delta after T steps of SGD with fresh momentum m under a constant gradient g is -lr g sum_t (1 - m^t) /
    (1 - m), so this divides by that; for one step it is -delta/lr, exactly. In the model's own order of parameters.
    """
    ordered = {name: observation.tensors[name] for name in observation.state.parameters}
    if observation.signal == "gradients":
        return ordered
    m = observation.momentum
    travelled = sum((1.0 - m**t) / (1.0 - m) for t in range(1, observation.steps + 1))
    scale = -1.0 / (observation.lr * travelled)
    return {name: tensor * scale for name, tensor in ordered.items()}


def check_observation(observation: Observation) -> None:
    """Refuse tensors that do not fit the model or are not finite, naming the tensor (`InputError`)."""
    parameters = observation.state.parameters
    for name in parameters:
        if name not in observation.tensors:
            raise InputError(f"The signal lacks tensor {name!r}, which the model has.")
    for name, tensor in observation.tensors.items():
        if name not in parameters:
            raise InputError(f"The signal holds tensor {name!r}, which the model lacks.")
        if tensor.shape != parameters[name].shape:
            raise InputError(
                f"Tensor {name!r} of the signal has shape {tuple(tensor.shape)}; the model's is "
                f"{tuple(parameters[name].shape)}."
            )
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(f"Tensor {name!r} of the signal holds values that are not finite.")
    labels = observation.labels
    if labels is not None and bool(((labels < 0) | (labels >= observation.model.classes)).any()):
        raise InputError(f"A known label is outside 0 to {observation.model.classes - 1}.")
