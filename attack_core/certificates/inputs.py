"""The certificate of images that are a layer's inputs themselves: the equations are linear, and there is no search.

A fully connected layer's weight gradient is G = E^T X for errors E (B, O) and inputs X (B, I), and its bias gradient is
the sum of E's rows. Where the errors are known, their pseudo-inverse says how much an error of G moves each image.
Errors that were separated may be wrong and explain G all the same, so each image's are compared with those that the
network makes of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.linalg import vector_norm
from torch.nn import functional

from attack_core.base.certificate import Certificate, least_psnr, undetermined
from attack_core.fc.head import head_errors
from attack_core.fc.layer_inputs import LayerInputs
from attack_core.signal.signal_model import mixes_labels
from fl_core.base.decibels import TINY
from fl_core.base.device import exact
from fl_core.threat.observation import Observation

_PURPOSE = "certifying layer inputs"


@dataclass(frozen=True, kw_only=True)
class InputLimits:
    """When a layer's inputs are certified."""

    rounding: float = 1e-6
    """Singular values of the errors below this share of the largest are what float32 leaves of 0."""
    shared: float = 1.5
    """How many units have to share an image's error, in effect, so that one checks the other; not measured."""


INPUT_LIMITS = InputLimits()
"""The limits in force."""


@dataclass(frozen=True)
class InputErrors:
    """How far a layer's inputs (B, I) may be off: L2 `distances` (B,), infinite where nothing checks them.

    `residual` is the relative distance that errors and inputs leave of the layer's gradients, or of what the network
    makes of an image, whichever is more. `conditions` (B,) say how much an error of the gradient moves each image,
    relatively; infinite where errors that are alike hide which image is which.
    """

    distances: Tensor
    residuals: Tensor
    conditions: Tensor


def input_errors(
    read: LayerInputs, observation: Observation, limits: InputLimits = INPUT_LIMITS
) -> InputErrors | None:
    """Of exact inputs.

    None where several images were seen in several steps, with labels mixed, or where not all of them came apart.
    """
    shares = read.shares
    count = len(shares.inputs)
    told = observation.steps == 1 and not read.head.random and not mixes_labels(observation)
    if not read.complete or shares.others is not None or (count > 1 and not told):
        return None
    weight, bias = (read.gradients[name] for name in read.own)
    observed = torch.cat([weight, bias[:, None]], 1)
    # Divided first: a network that is sure of its answer has gradients whose squares float32 does not hold.
    unit = observed.abs().max()
    observed, scaled = observed / unit, shares.errors / unit
    explained = scaled.mT @ torch.cat([shares.inputs, torch.ones_like(shares.inputs[:, :1])], 1)
    left = float(vector_norm(explained - observed))
    if count == 1:
        alone = left / float(vector_norm(scaled)) if _shared(scaled[0]) >= limits.shared else math.inf
        return InputErrors(*(torch.tensor([value]) for value in (alone, left / _size(observed), 1.0)))
    errors = exact(scaled, _PURPOSE)
    values = torch.linalg.svdvals(errors)
    if not float(values[-1]) > limits.rounding * float(values[0]):
        hidden = torch.full((count,), math.inf)
        return InputErrors(hidden, torch.full((count,), left / _size(observed)), hidden)
    amplified = vector_norm(torch.linalg.pinv(errors.mT), dim=1)
    wrong = _wrong(read, observation)
    mixed = float(vector_norm(wrong * vector_norm(errors, dim=1))) * float(
        vector_norm(shares.inputs, dim=1).max()
    )
    checked = torch.tensor([_shared(error) >= limits.shared for error in errors])
    return InputErrors(
        distances=torch.where(checked, amplified * (left + mixed), math.inf),
        residuals=wrong.clamp_min(left / _size(observed)),
        conditions=values[0] * amplified,
    )


def certify_inputs(
    read: LayerInputs, observation: Observation, *, unit: float = 1.0
) -> tuple[Certificate | None, ...]:
    """One for each image of `read`, whose inputs are normalised pixels; None where `input_errors` has none.

    `unit` is the least that a change of a pixel in [-1, 1] changes the input.
    """
    count, unknowns = read.shares.inputs.shape
    errors = input_errors(read, observation)
    if errors is None:
        return (None,) * count
    found = []
    for distance, residual, condition in zip(
        errors.distances.tolist(), errors.residuals.tolist(), errors.conditions.tolist(), strict=True
    ):
        if math.isinf(condition):
            found.append(undetermined(unknowns, 0, residual, "everywhere"))
            continue
        found.append(
            Certificate(
                unknowns=unknowns,
                rank=unknowns,
                condition=condition,
                residual=residual,
                psnr=least_psnr(distance / unit, unknowns),
                reach="everywhere",
            )
        )
    return tuple(found)


def _size(values: Tensor) -> float:
    return max(float(vector_norm(values)), TINY)


def _wrong(read: LayerInputs, observation: Observation) -> Tensor:
    """How far the direction of each image's error (B,) is, relatively, from what the network makes of its input."""
    shares = read.shares
    caused = head_errors(observation.state.parameters, read.head, shares.inputs, shares.labels)
    caused, seen = exact(caused, _PURPOSE), exact(shares.errors, _PURPOSE)
    unit = functional.normalize(caused, dim=1)
    along = (seen * unit).sum(1, keepdim=True)
    # Errors of any positive size: clipping and weights of clients change no direction.
    off = vector_norm(seen - along * unit, dim=1) / vector_norm(seen, dim=1).clamp_min(TINY)
    return torch.where(along[:, 0] > 0, off, math.inf)


def _shared(error: Tensor) -> float:
    """How many units share an error (O,) in effect: 1 where one has all of it."""
    largest = error.abs().max()
    if not float(largest) > 0:
        return 0.0
    squares = (error / largest).square()
    return float(squares.sum() ** 2 / squares.square().sum())
