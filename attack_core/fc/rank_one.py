"""One image's layer input where no bias gradient was seen: direction from weight gradients, length from the network.

A fully connected layer's weight gradient a u^T says neither how long the error a nor how long the input u is. The
layers behind it do: an input s u and a label cause one error, and the right ones cause a / s.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from attack_core.fc.head import Head, head_errors, passed_through
from attack_core.fc.inversion import completed_input
from attack_core.fc.spear import Inseparable
from fl_core.base.decibels import TINY
from fl_core.base.device import exact
from fl_core.base.types import Tensors


@dataclass(frozen=True, kw_only=True)
class LengthSearch:
    """How the length of a layer input is searched for. No field was measured against other values."""

    lengths: int = 33
    """How many lengths are tried at a time, evenly spaced by their logarithm."""
    span: float = 30.0
    """The first lengths reach from the estimate for a short input over this factor to that times this factor."""
    zooms: int = 4
    """How often the search is repeated around the best length, each time 33/2 times as close."""
    largest_mismatch: float = 0.05
    """The relative squared distance from the error that was seen, above which no length explains it."""
    seen: float = 1e-6
    """A unit's error counts as seen where its known inputs hold more than this share of the direction's energy."""


LENGTH_SEARCH = LengthSearch()
"""The search in force."""


@dataclass(frozen=True)
class Scaled:
    """The layer's input (I,) and error (O,), 0 where unknown, which inputs are known, and the output's error (K,)."""

    inputs: Tensor
    errors: Tensor
    known: Tensor
    logit_errors: Tensor


def scaled_input(
    weight: Tensor, sent: Tensor, head: Head, parameters: Tensors, search: LengthSearch = LENGTH_SEARCH
) -> Scaled:
    """A single image's input of the head's first layer from its weight gradient (O, I), 0 where `sent` is False.

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
    error = (weight @ direction) / reached.clamp_min(TINY)
    rows = reached > search.seen
    label, length, missed = _length(direction, error, rows, head, parameters, search)
    if missed > search.largest_mismatch:
        raise Inseparable("no bias gradient was seen, and no length of the layer's input explains its error")
    logits = passed_through(parameters, head.layers, direction[None] * length)[0]
    target = functional.one_hot(torch.tensor(label), len(logits)).to(logits)
    return Scaled(
        direction * length, torch.where(rows, error / length, 0.0), known, logits.softmax(0) - target
    )


def _length(
    direction: Tensor, error: Tensor, rows: Tensor, head: Head, parameters: Tensors, search: LengthSearch
) -> tuple[int, float, float]:
    """The label and length whose error fits best on the `rows` that were seen, and its relative squared distance."""
    classes = len(parameters[f"{head.layers[-1]}.bias"])
    best = (0, 1.0, float("inf"))
    for label in range(classes):
        here = torch.full((1,), label, device=direction.device)
        short = head_errors(parameters, head, torch.zeros_like(direction)[None], here)
        # Of a short input the error hardly depends on it, so that its length follows from the error's size.
        centre, span = float(error[rows].norm() / short[0, rows].norm().clamp_min(TINY)), search.span
        for _ in range(search.zooms):
            lengths = centre * torch.logspace(-1.0, 1.0, search.lengths, base=span).to(direction)
            caused = head_errors(parameters, head, lengths[:, None] * direction, here.expand(search.lengths))
            apart = (lengths[:, None] * caused - error)[:, rows].square().sum(1)
            missed, place = (apart / error[rows].square().sum()).min(0)
            centre, span = float(lengths[place]), span ** (2.0 / search.lengths)
            if float(missed) < best[2]:
                best = (label, centre, float(missed))
    return best
