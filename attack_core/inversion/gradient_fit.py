"""Fit of one image to a whole gradient with known errors, for networks whose functions are smooth.

The features are read from the last layers alone, and under noise the layers in front say much more. Where the network
has no kinks (ReLU, maxima), L-BFGS follows all numbers at once: least squares in units of the known error under a prior
whose weight falls (`Continuation.follow`). A share of the numbers, drawn at random, is held out. It chooses the prior's
weight, and whether the image explains the signal better than another one (cross-validation). Behind ReLUs L-BFGS stalls
(docs/decisions, 0015).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn

from attack_core.evidence.cross_validation import Residuals, evidence
from attack_core.fc.relu_chain import graph_nodes
from attack_core.gradients.comparison.losses import residuals_at, terms_of
from attack_core.gradients.objectives import L2
from attack_core.inversion.continuation import Continuation
from attack_core.inversion.descent.given import Mismatch, Penalty
from attack_core.signal.signal_model import (
    matched_numbers,
    mixes_labels,
    precisions,
    sends_signs,
    vib_of_images,
)
from fl_core.base.errors import InputError
from fl_core.base.types import ModelState, Tensors
from fl_core.models.forward import predict
from fl_core.threat.observation import Observation


@dataclass(frozen=True, kw_only=True)
class GradientFitLimits:
    """What of the signal is held out."""

    held_out: float = 0.1
    """The share of the numbers that the fit does not see. Not measured against other values."""
    slack: float = 0.03
    """By how much the answer may miss the signal more than the known error alone does.

    Measured on faces (docs/decisions, 0092): fits that are better than the features' answer miss it by at most 0.002
    more; behind lenet, where the search stalls, fits that are worse miss it by 0.04 and more.
    """


GRADIENT_FIT_LIMITS = GradientFitLimits()
"""The limits in force."""

_KINKS = (
    "Abs",
    "AdaptiveMaxPool",
    "Amax",
    "Amin",
    "Clamp",
    "FractionalMaxPool",
    "HardShrink",
    "Hardshrink",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "LeakyRelu",
    "Max",
    "Min",
    "Prelu",
    "Relu",
    "Rrelu",
    "Softshrink",
    "Threshold",
)
"""How autograd names the operations whose first derivative jumps."""


@dataclass(frozen=True, kw_only=True)
class GradientFit:
    """Fits one image to most numbers of a gradient, and judges images by the others.

    `mismatch` is relative to the square of the numbers that are fitted, and `error` what the true image has. `left` is
    what an image leaves unexplained of the numbers held out.
    """

    mismatch: Mismatch
    error: float
    left: Residuals
    limits: GradientFitLimits = GRADIENT_FIT_LIMITS

    @classmethod
    def of(
        cls,
        observation: Observation,
        model: nn.Module,
        gradients: Tensors,
        label: Tensor,
        generator: torch.Generator,
        limits: GradientFitLimits = GRADIENT_FIT_LIMITS,
    ) -> Self | None:
        """Of one image with `label` (1,); None where the error of a number is unknown, or the network has kinks."""
        known = precisions(observation, gradients)
        told = observation.examples == observation.steps == 1 and known.keys() == gradients.keys()
        odd = mixes_labels(observation) or vib_of_images(observation) is not None or sends_signs(observation)
        state = observation.state
        if not told or odd or not is_smooth(model, state, observation.model.shape.size):
            return None
        out = {name: _drawn(value, limits.held_out, generator) for name, value in gradients.items()}
        rest = {name: ~mask for name, mask in out.items()}
        fitted = matched_numbers(observation, gradients, known, only=rest)
        others = matched_numbers(observation, gradients, known, only=out)
        total = float((fitted.squares * fitted.weights.to(fitted.squares)).sum())
        if not total > 0:
            return None
        return cls(
            mismatch=lambda images: L2().loss(terms_of(fitted, model, state, images, label))[0] / total,
            error=fitted.numbers / total,
            left=lambda images: residuals_at(others, model, state, images.clamp(-1.0, 1.0), label),
            limits=limits,
        )

    @classmethod
    def joined(cls, fits: Sequence[Self]) -> Self:
        """The fit to several signals of one image, each counted by its own error."""
        first = fits[0]
        if len(fits) == 1:
            return first
        # What all are relative to is the same in each: the error of one number, over how many there are.
        whole = sum(1.0 / fit.error for fit in fits)
        return replace(
            first,
            mismatch=lambda images: (
                torch.stack([fit.mismatch(images) / fit.error for fit in fits]).sum() / whole
            ),
            error=len(fits) / whole,
            left=lambda images: torch.cat([fit.left(images) for fit in fits]),
        )

    def minimise(
        self,
        descent: Continuation,
        start: Tensor,
        report: Callable[[float], None],
        prior: Penalty | None = None,
    ) -> Tensor | None:
        """The image (1, C, H, W) from `start` that explains the signal up to its error; `prior` is a trained one.

        None where the search finds no such image, where the numbers held out support none, or where an operation of
        the network has no second derivative.
        """
        try:
            images = descent.follow(
                self.mismatch, start, self.left, error=self.error, prior=prior, report=report
            )
        except InputError:
            return None
        if images is start:
            return None
        images = images.clamp(-1.0, 1.0)
        with torch.enable_grad():
            missed = float(self.mismatch(images.requires_grad_(True)).detach())
        images = images.detach()
        return images if missed <= (1.0 + self.limits.slack) * self.error else None

    def is_better(self, images: Tensor, other: Tensor) -> bool:
        """Whether `images` explain the numbers held out better than `other` does, both (1, C, H, W)."""
        return evidence(self.left(other), self.left(images)) > 0


def is_smooth(model: nn.Module, state: ModelState, size: tuple[int, ...]) -> bool:
    """Whether no operation between a picture of `size` (C, H, W) and the logits is known to have a kink."""
    picture = next(iter(state.parameters.values())).new_zeros((1, *size)).requires_grad_(True)
    with torch.enable_grad():
        logits = predict(model, state.with_own_buffers(), picture)
    return not any(node.name().startswith(_KINKS) for node in graph_nodes(logits.grad_fn))


def _drawn(values: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """A mask of the shape of `values` that is True for about this share of them."""
    return (torch.rand(values.shape, generator=generator) < share).to(values.device)
