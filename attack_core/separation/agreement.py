"""A batch's inputs brought into agreement with its gradient: errors from the network, inputs by least squares.

The network says which errors the images cause, in all of training; with errors known, the first layer's gradient is
linear equations for the inputs, thousands for each image. The inputs cause errors anew. At weights that are not trained
far a wrong input changes its error by little, so a few turns end at the least squares solution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from attack_core.separation.factors import Factors, Layer, solved_with_errors
from attack_core.separation.network import Said, Training, Weights, outputs_of
from fl_core.base.decibels import TINY

Scale = Literal["known", "common", "own"]
"""Whether the gradient is as long as the loss makes it, shorter by one unknown factor, or by one for each image."""


@dataclass(frozen=True, kw_only=True)
class AgreementLimits:
    """When inputs agree with a gradient; fixed on batches of 4, 16 and 64 CIFAR-10 pictures of the train split."""

    turns: int = 12
    """How often at most; from 27 dB off five turns were enough at known noise."""
    settled: float = 1e-8
    """Inputs that change by less, relatively, have settled."""
    misfit: float = 0.2
    """How far an image's error in the gradient may be from the network's, relatively, beyond what noise makes of it."""
    chance: float = 2.0
    """How many times what noise makes of that distance is let pass."""


AGREEMENT_LIMITS = AgreementLimits()
"""The limits in force."""


@dataclass(frozen=True)
class Agreement:
    """Images with all that the gradient says of them.

    `inputs` (N, I + 1), `labels` (N,), `directions` (N, R) of their errors, the first layer's `errors` (N, O), each
    input's expected `deviation` (N, I + 1) or (N, 1), and how far each error is from the one seen, beyond noise
    (`misfits`, (N,); 0 where nothing can be compared).
    """

    inputs: Tensor
    labels: Tensor
    directions: Tensor
    errors: Tensor
    deviation: Tensor
    misfits: Tensor

    def only(self, kept: Tensor) -> Agreement:
        """Those images that `kept` (N,) marks."""
        return Agreement(
            self.inputs[kept],
            self.labels[kept],
            self.directions[kept],
            self.errors[kept],
            self.deviation[kept],
            self.misfits[kept],
        )


@dataclass(frozen=True)
class _State:
    """Between two turns: `inputs` (N, I + 1), what the layers behind see of them (`hidden`), each image's `factor`.

    `errors` (N, O) and `deviation` are as in `Agreement`, `left` is what they left of the first layer's gradient with
    the inputs before.
    """

    inputs: Tensor
    labels: Tensor
    directions: Tensor
    hidden: list[Tensor]
    factor: Tensor
    errors: Tensor
    deviation: Tensor
    left: float


@dataclass(frozen=True)
class Batch:
    """A batch of `count` images as its gradient shows it.

    `gradients` has each layer's but the last, the first's with the bias behind it; `first` the factors of that one,
    `noises` each one's standard deviation.
    """

    count: int
    gradients: Sequence[Layer]
    first: Factors
    noises: Sequence[float]
    layers: Weights
    training: Training
    scale: Scale = "known"

    def agreed(
        self,
        inputs: Tensor,
        labels: Tensor,
        directions: Tensor,
        limits: AgreementLimits = AGREEMENT_LIMITS,
    ) -> Agreement:
        """The images near `inputs` (N, I + 1) with `labels` (N,) that agree with the gradient best; N <= `count`.

        `directions` (N, R) give their errors among the rows of `first`.
        """
        training = self.training
        hidden = [each.relu() for each in outputs_of(self.layers, inputs[:, :-1])[:-1]]
        ones = torch.ones_like(inputs[:, :1])
        start = _State(inputs, labels, directions, hidden, ones, ones, ones, math.inf)
        if len(inputs) < self.count:
            return self._as_they_are(start)
        found = self._settled(start, True, limits)
        if training.again:
            # Units that were on for some of the steps: what all steps together say of them is no yes or no.
            alone = self._settled(found, False, limits)
            found = min(found, alone, key=lambda each: each.left)
        heard = self._said(found)[0]
        usable = self.first.seen
        size = found.errors[:, usable].square().sum(1).clamp_min(TINY)
        missed = (heard.errors - found.errors)[:, usable].square().sum(1)
        chance = heard.noise.expand_as(found.errors)[:, usable].square().sum(1)
        misfits = ((missed - limits.chance * chance).clamp_min(0.0) / size).sqrt()
        errors, deviation = found.errors * found.factor, found.deviation / found.factor
        return Agreement(found.inputs, labels, directions, errors, deviation, misfits)

    def _as_they_are(self, state: _State) -> Agreement:
        """Some images of several steps: what the others do to the weights meanwhile is not known."""
        said = self._said(state)[0]
        misfits = state.inputs.new_zeros(len(state.labels))
        deviation = said.noise / said.errors.square().mean(1, keepdim=True).sqrt()
        return Agreement(state.inputs, state.labels, state.directions, said.errors, deviation, misfits)

    def _settled(self, start: _State, heard: bool, limits: AgreementLimits) -> _State:
        """The state where turns end; units are on by what the gradient says where it is `heard`."""
        state = start
        for turn in range(limits.turns):
            # How long errors are is known once the scale is.
            said = self._said(state) if heard and (turn or self.scale == "known") else ()
            counted = self.training.passed(self.layers, state.inputs[:, :-1], state.labels, said)
            errors = counted.errors[0]
            found, deviation = self._inputs_of(errors, state.inputs)
            left = (
                float(self.left(errors * state.factor, state.inputs).norm()) if self.training.again else 0.0
            )
            last = found[:, -1:].clamp_min(TINY)
            factor = torch.ones_like(last)
            if self.scale != "known":
                factor = last if self.scale == "own" else last.median().expand_as(last)
            found = torch.cat([(found / factor)[:, :-1], torch.ones_like(last)], dim=1)
            change = float((found - state.inputs).norm() / found.norm())
            hidden = counted.inputs[1:]
            state = _State(found, state.labels, state.directions, hidden, factor, errors, deviation, left)
            if change < limits.settled:
                break
        return state

    def left(self, errors: Tensor, inputs: Tensor) -> Tensor:
        """What `errors` (N, O) and `inputs` (N, I + 1) leave of the first layer's gradient (O, I + 1) that was sent."""
        layer = self.gradients[0]
        left = layer.values - errors.mT @ inputs
        return left if layer.mask is None else left * layer.mask

    def _said(self, state: _State) -> list[Said]:
        """What each hidden layer's gradient says of the images' errors there."""
        inputs, factor = state.inputs, state.factor
        if len(inputs) < self.count:
            return self._said_in_part(state)
        found = []
        for layer, entering, noise in zip(
            self.gradients, [inputs, *state.hidden[:-1]], self.noises, strict=True
        ):
            errors, unit = solved_with_errors(layer, entering.mT)
            found.append(Said(errors.mT / factor, (noise * unit).mT / factor))
        return found

    def _said_in_part(self, state: _State) -> list[Said]:
        """The same of the first layer alone, where other images of the batch are not known.

        An image's error is in the direction that it was found by, as long as the network makes it.
        """
        directions = state.directions
        seen = self.first.seen
        errors = (self.first.rows @ directions.mT).mT
        caused = self.training.alone(self.layers, state.inputs[:, :-1], state.labels)
        length = (caused * errors)[:, seen].sum(1) / errors[:, seen].square().sum(1).clamp_min(TINY)
        noise = self.first.row_noise * directions.norm(dim=1) * length.abs()
        return [Said(errors * length[:, None], noise[:, None])]

    def _inputs_of(self, errors: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The inputs (N, I + 1) that explain the first layer's gradient best with `errors`, and their deviation."""
        if len(errors) == self.count:
            found, unit = solved_with_errors(self.gradients[0].transposed(), errors.mT)
            return found.mT, (self.first.noise * unit).mT
        rest = torch.linalg.svd(inputs @ self.first.basis, full_matrices=True).Vh[len(inputs) :]
        others = torch.linalg.qr(self.first.rows @ rest.mT).Q.mT * errors.norm(dim=1).mean()
        seen = self.first.seen
        both = torch.cat([errors, others])[:, seen]
        inverse = torch.linalg.pinv(both.mT)[: len(errors)]
        whole = self.first.rows[seen] @ self.first.basis.mT
        return inverse @ whole, self.first.row_noise * inverse.norm(dim=1, keepdim=True)
