"""A batch's inputs brought into agreement with its gradient: errors from the network, inputs by least squares.

The network says which errors the images cause, in all of training; with errors known, the first layer's gradient is
linear equations for the inputs, thousands for each image. The inputs cause errors anew. At weights that are not trained
far a wrong input changes its error by little, so a few turns end at the least squares solution.
"""

from __future__ import annotations

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

    `inputs` (N, I + 1), `labels` (N,), the first layer's `errors` (N, O), each input's expected `deviation` (N, I + 1)
    or (N, 1), and how far each error is from the one seen, beyond noise (`misfits`, (N,)).
    """

    inputs: Tensor
    labels: Tensor
    errors: Tensor
    deviation: Tensor
    misfits: Tensor

    def only(self, kept: Tensor) -> Agreement:
        """Those images that `kept` (N,) marks."""
        return Agreement(
            self.inputs[kept],
            self.labels[kept],
            self.errors[kept],
            self.deviation[kept],
            self.misfits[kept],
        )


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

    def agreed(self, inputs: Tensor, labels: Tensor, limits: AgreementLimits = AGREEMENT_LIMITS) -> Agreement:
        """The images near `inputs` (N, I + 1) with `labels` (N,) that agree with the gradient best; N <= `count`."""
        factor = torch.ones(len(inputs), 1, dtype=inputs.dtype)
        for _ in range(limits.turns):
            said = self._said(inputs, factor)
            errors = self.training.errors(self.layers, inputs[:, :-1], labels, said)[0]
            found, deviation = self._inputs_of(errors, inputs)
            last = found[:, -1:].clamp_min(TINY)
            if self.scale == "own":
                factor = last
            elif self.scale == "common":
                factor = last.median().expand_as(last)
            ones = torch.ones_like(last)
            found = torch.cat([(found / factor)[:, :-1], ones], dim=1)
            change = float((found - inputs).norm() / found.norm())
            inputs = found
            if change < limits.settled:
                break
        said = self._said(inputs, factor)[0]
        usable = self.first.seen
        size = errors[:, usable].square().sum(1).clamp_min(TINY)
        missed = (said.errors - errors)[:, usable].square().sum(1)
        chance = said.noise.expand_as(errors)[:, usable].square().sum(1)
        misfits = ((missed - limits.chance * chance).clamp_min(0.0) / size).sqrt()
        return Agreement(inputs, labels, errors * factor, deviation / factor, misfits)

    def _said(self, inputs: Tensor, factor: Tensor) -> list[Said]:
        """What each hidden layer's gradient says of the images' errors there, given what the layers see of them."""
        if len(inputs) < self.count:
            return self._said_in_part(inputs, factor)
        seen = [inputs, *(each.relu() for each in outputs_of(self.layers, inputs[:, :-1])[:-1])]
        found = []
        for layer, entering, noise in zip(self.gradients, seen, self.noises, strict=False):
            errors, unit = solved_with_errors(layer, entering.mT)
            found.append(Said(errors.mT / factor, (noise * unit).mT / factor))
        return found

    def _said_in_part(self, inputs: Tensor, factor: Tensor) -> list[Said]:
        """The same of the first layer alone, where other images of the batch are not known."""
        rows = inputs @ self.first.basis
        rest = torch.linalg.svd(rows, full_matrices=True).Vh[len(rows) :]
        inverse = torch.linalg.pinv(torch.cat([rows, rest]))[:, : len(rows)]
        errors = (self.first.rows @ inverse).mT
        noise = (self.first.row_noise * inverse.norm(dim=0))[:, None]
        return [Said(errors / factor, noise / factor)]

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
