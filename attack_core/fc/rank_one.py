"""One image's layer input where no bias gradient was seen: direction from weight gradients, length from the network.

A fully connected layer's weight gradient a u^T says neither how long the error a nor how long the input u is. The
layers behind it do: an input s u and a label cause one error, and the right ones cause a / s.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from attack_core.fc.head import Tail, passed_through, tail_errors
from attack_core.fc.inversion import completed_input
from attack_core.fc.spear import Inseparable
from fl_core.base.device import exact
from fl_core.base.types import Tensors

_CREDIBLE = 0.05
"""How far, relatively and squared, the error that the network causes may be from the one that was seen."""
_LENGTHS, _SPAN, _ZOOMS = 33, 30.0, 4
"""How many lengths are tried at a time, up to how many times what a short input would need, and how often closer."""


@dataclass(frozen=True)
class Scaled:
    """The layer's input (I,) and error (O,), 0 where unknown, which inputs are known, and the output's error (K,)."""

    inputs: Tensor
    errors: Tensor
    known: Tensor
    logit_errors: Tensor


def scaled_input(weight: Tensor, sent: Tensor, tail: Tail, parameters: Tensors) -> Scaled:
    """A single image's input of the tail's first layer from its weight gradient (O, I), 0 where `sent` is False.

    `parameters` are the network's weights, by name. Raises `Inseparable` where no input of this direction causes such
    an error, or nothing was seen.
    """
    if not bool(weight.any()):
        raise Inseparable("no weight gradient of the layer was seen that is not zero")
    squares = exact(weight @ weight.mT, "the direction of a layer input")
    start = torch.linalg.eigh(squares).eigenvectors[:, -1].to(weight)
    # As if the leading errors were bias gradients; both come out up to one factor.
    direction, known = completed_input(weight, start, sent, start != 0)
    direction = direction / direction.norm()
    if float(direction.sum()) < 0:
        direction = -direction
    reached = sent.to(weight) @ direction.square()
    error = (weight @ direction) / reached.clamp_min(1e-30)
    rows = reached > 1e-6
    label, length, missed = _length(direction, error, rows, tail, parameters)
    if missed > _CREDIBLE:
        raise Inseparable("no bias gradient was seen, and no length of the layer's input explains its error")
    logits = passed_through(parameters, tail.layers, direction[None] * length)[0]
    target = functional.one_hot(torch.tensor(label), len(logits)).to(logits)
    return Scaled(
        direction * length, torch.where(rows, error / length, 0.0), known, logits.softmax(0) - target
    )


def _length(
    direction: Tensor, error: Tensor, rows: Tensor, tail: Tail, parameters: Tensors
) -> tuple[int, float, float]:
    """The label and length whose error fits best on the `rows` that were seen, and its relative squared distance."""
    classes = len(parameters[f"{tail.layers[-1]}.bias"])
    best = (0, 1.0, float("inf"))
    for label in range(classes):
        here = torch.full((1,), label, device=direction.device)
        short = tail_errors(parameters, tail, torch.zeros_like(direction)[None], here)
        # Of a short input the error hardly depends on it, so that its length follows from the error's size.
        centre, span = float(error[rows].norm() / short[0, rows].norm().clamp_min(1e-30)), _SPAN
        for _ in range(_ZOOMS):
            lengths = centre * torch.logspace(-1.0, 1.0, _LENGTHS, base=span).to(direction)
            caused = tail_errors(parameters, tail, lengths[:, None] * direction, here.expand(_LENGTHS))
            apart = (lengths[:, None] * caused - error)[:, rows].square().sum(1)
            missed, place = (apart / error[rows].square().sum()).min(0)
            centre, span = float(lengths[place]), span ** (2.0 / _LENGTHS)
            if float(missed) < best[2]:
                best = (label, centre, float(missed))
    return best
