"""Losses, residuals and terms of images: of the gradient that they have, compared with what is matched."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from attack_core.gradients.comparison.matched import Matched
from attack_core.gradients.comparison.terms import Terms
from attack_core.gradients.handles import DenseHandle, gradient_handles
from attack_core.gradients.objectives import L2, Objective
from fl_core.base.types import ModelState, Tensors


def squared_distance(
    matched: Matched, model: nn.Module, state: ModelState, images: Tensor, labels: Tensor
) -> Tensor:
    """The weighted squared distance () of the gradient that `images` (B, 3, S, S) with `labels` (B,) have."""
    return loss_at(L2(), matched, model, state, images, labels)


def squared_distance_of(matched: Matched, gradients: Tensors) -> Tensor:
    """The weighted squared distance () of `gradients`, by parameter name; keeps more digits than ghost forms do."""
    handles = {name: DenseHandle(gradients[name][None]) for name in matched.names}
    return L2().loss(matched.terms(handles))[0]


def loss_at(
    objective: Objective,
    matched: Matched,
    model: nn.Module,
    state: ModelState,
    images: Tensor,
    labels: Tensor,
) -> Tensor:
    """The loss () of the gradient that `images` (B, 3, S, S) with `labels` (B,) have."""
    return objective.loss(_terms_at(matched, model, state, images, labels))[0].detach()


def residuals_at(
    matched: Matched, model: nn.Module, state: ModelState, images: Tensor, labels: Tensor
) -> Tensor:
    """The residuals (N,) of the gradient that `images` (B, 3, S, S) with `labels` (B,) have."""
    return _terms_at(matched, model, state, images, labels).residuals()[0].detach()


def terms_of(matched: Matched, model: nn.Module, state: ModelState, images: Tensor, labels: Tensor) -> Terms:
    """The terms of one candidate, `images` (B, 3, S, S) with `labels` (B,), with the images' graph attached."""
    handles = gradient_handles(
        model, state, images[None], lambda logits: functional.cross_entropy(logits[0], labels)[None]
    )
    return matched.terms(handles)


def _terms_at(matched: Matched, model: nn.Module, state: ModelState, images: Tensor, labels: Tensor) -> Terms:
    with torch.enable_grad():
        return terms_of(matched, model, state, images.detach().clone().requires_grad_(True), labels)
