"""Per-parameter handles on the gradient that a candidate image would have caused.

One forward pass over all candidates records the input of every layer with a closed form; one backward pass gives the
error signals at their outputs, and the gradient of all else (`attack_core.gradients.tracing`). From these each
parameter's gradient follows, still differentiable with respect to the images. A linear layer's weight gradient is never
formed where its factors are less work: its inner products follow from them alone (the idea of ghost clipping,
Goodfellow 2015, arXiv:1510.01799; Li et al. 2022, arXiv:2110.05679, applied to matching).

Axes: C candidates, B images each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from attack_core.gradients.tracing import LossOf, Traced, trace
from fl_core.base.types import ModelState, Tensors


class GradientHandle(Protocol):
    """One parameter's gradient for every candidate, seen through what objectives need of it."""

    def squared_norm(self, mask: Tensor | None = None) -> Tensor:
        """Squared L2 norm, (C,), of the numbers where `mask`, of the parameter's shape, is 1; of all without one."""

    def dot(self, target: Tensor) -> Tensor:
        """Inner product with one target of the parameter's shape, (C,)."""

    def squared_distance(self, target: Tensor, target_square: Tensor) -> Tensor:
        """Squared L2 distance to the target, (C,); `target_square` () is the target's squared norm."""

    def dense(self) -> Tensor:
        """The gradient itself, (C, *parameter shape)."""


@dataclass(frozen=True)
class DenseHandle:
    """A gradient held as a tensor (C, *parameter shape)."""

    gradient: Tensor

    def squared_norm(self, mask: Tensor | None = None) -> Tensor:
        """See `GradientHandle`."""
        squares = flat(self.gradient).square()
        return squares.sum(1) if mask is None else squares @ mask.flatten()

    def dot(self, target: Tensor) -> Tensor:
        """See `GradientHandle`."""
        return flat(self.gradient) @ target.flatten()

    def squared_distance(self, target: Tensor, target_square: Tensor) -> Tensor:  # noqa: ARG002
        """See `GradientHandle`; the difference is taken directly, which keeps more digits."""
        return flat(self.gradient - target).square().sum(1)

    def dense(self) -> Tensor:
        """See `GradientHandle`."""
        return self.gradient


@dataclass(frozen=True)
class GhostHandle:
    """A linear layer's weight gradient, sum over b of error_b input_b^T, held as its two factors.

    `error` (C, B, O) and `input` (C, B, I); with token axes, or where the layer is called several times, B is the
    number of all vectors that entered it. Exact: norms and inner products use the B x B Gram matrices.
    """

    error: Tensor
    input: Tensor

    def squared_norm(self, mask: Tensor | None = None) -> Tensor:
        """See `GradientHandle`."""
        if mask is not None:
            return self._masked_norm(mask)
        errors = self.error @ self.error.mT
        inputs = self.input @ self.input.mT
        return (errors * inputs).sum((1, 2))

    def _masked_norm(self, mask: Tensor) -> Tensor:
        """The sum over pairs of images b, c of (error_b error_c)^T mask (input_b input_c)."""
        batch = self.error.shape[1]
        total = self.error.new_zeros(len(self.error))
        for first in range(batch):
            for second in range(first, batch):
                errors = self.error[:, first] * self.error[:, second]
                inputs = self.input[:, first] * self.input[:, second]
                total = total + (1.0 if first == second else 2.0) * ((errors @ mask) * inputs).sum(1)
        return total

    def dot(self, target: Tensor) -> Tensor:
        """See `GradientHandle`."""
        return ((self.error @ target) * self.input).sum((1, 2))

    def squared_distance(self, target: Tensor, target_square: Tensor) -> Tensor:
        """See `GradientHandle`."""
        return self.squared_norm() - 2.0 * self.dot(target) + target_square

    def dense(self) -> Tensor:
        """See `GradientHandle`."""
        return self.error.mT @ self.input


def gradient_handles(
    model: nn.Module,
    state: ModelState,
    images: Tensor,
    loss_of: LossOf,
    *,
    ghost: bool = True,
    rows: Tensors | None = None,
) -> dict[str, GradientHandle]:
    """Handles by parameter name, in the state's order, for candidate images (C, B, 3, S, S), for any network.

    Differentiable with respect to `images` and whatever `loss_of` closes over. A parameter that the loss does not
    reach has a gradient of zeros. `ghost=False` forms the linear layers' gradients too (the plain form, for
    comparison). `rows` are buffers with one row for each image, (C * B, ...) by name. Raises `InputError` for a network
    that draws random numbers, gives no logits, or has integer parameters or an operation without a second derivative.
    """
    return stack_handles(
        [_handles(traced, state, ghost=ghost) for traced in trace(model, state, images, loss_of, rows)]
    )


def stack_handles(each: Sequence[Mapping[str, GradientHandle]]) -> dict[str, GradientHandle]:
    """One handle over all candidates for each parameter, from handles over some of them each."""
    if len(each) == 1:
        return dict(each[0])
    stacked: dict[str, GradientHandle] = {}
    for name in each[0]:
        parts = [handles[name] for handles in each]
        ghosts = [part for part in parts if isinstance(part, GhostHandle)]
        if len(ghosts) == len(parts):
            stacked[name] = GhostHandle(
                torch.cat([ghost.error for ghost in ghosts]), torch.cat([ghost.input for ghost in ghosts])
            )
        else:
            stacked[name] = DenseHandle(torch.cat([part.dense() for part in parts]))
    return stacked


@dataclass
class _Parts:
    """What adds up to one parameter's gradient; `own` says whether all factors are from its own layer."""

    factors: list[GhostHandle] = field(default_factory=list)
    dense: list[Tensor] = field(default_factory=list)
    own: bool = True

    def handle(self, parameter: Tensor, candidates: int, images: int, *, ghost: bool) -> GradientHandle:
        """The sum, for so many candidates of so many images."""
        if self.factors and not self.dense and self.own and ghost:
            whole = _joined(self.factors)
            if _is_less_work(whole, images):
                return whole
        terms = [*self.dense, *(factor.dense() for factor in self.factors)]
        if not terms:
            return DenseHandle(parameter.detach().new_zeros((candidates, *parameter.shape)))
        return DenseHandle(sum(terms[1:], start=terms[0]))


def _handles(traced: Traced, state: ModelState, *, ghost: bool) -> dict[str, GradientHandle]:
    candidates = traced.candidates
    parts = {name: _Parts() for name in state.parameters}
    for call, error in zip(traced.calls, traced.errors, strict=True):
        if error is None:
            continue
        for own, gradient in call.gradients(error, candidates).items():
            parts[call.names[own]].dense.append(gradient)
        weight = call.names.get("weight")
        if isinstance(call.module, nn.Linear) and weight is not None:
            parts[weight].factors.append(GhostHandle(*call.factors(error, candidates)))
            parts[weight].own &= weight == f"{call.name}.weight"
    for name, gradient in traced.rest.items():
        parts[name].dense.append(gradient)
    return {
        name: parts[name].handle(value, candidates, traced.images, ghost=ghost)
        for name, value in state.parameters.items()
    }


def _joined(factors: Sequence[GhostHandle]) -> GhostHandle:
    """The factors of the sum."""
    if len(factors) == 1:
        return factors[0]
    return GhostHandle(
        torch.cat([factor.error for factor in factors], dim=1),
        torch.cat([factor.input for factor in factors], dim=1),
    )


def _is_less_work(factors: GhostHandle, images: int) -> bool:
    """Whether R rows of factors are less work than the O x I gradient: always where there is one for each image.

    Either way the inner product with a target takes R O I multiplications. Beyond that the Gram matrices take
    R^2 (O + I), and the gradient its own size.
    """
    (rows, outputs), inputs = factors.error.shape[1:], factors.input.shape[2]
    return rows == images or rows**2 * (outputs + inputs) <= outputs * inputs


def flat(gradients: Tensor) -> Tensor:
    """(C, *parameter shape) as (C, N); a parameter may be a single number without axes."""
    return gradients.reshape(len(gradients), -1)
