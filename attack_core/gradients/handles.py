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
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm

from attack_core.gradients.tracing import Known, LossOf, Traced, trace
from fl_core.base.types import ModelState, Tensors


@dataclass(frozen=True, kw_only=True)
class HandleLimits:
    """Which way a network's gradients are computed; time and rounding alone depend on it."""

    few: int = 1 << 19
    """CPU: with no more numbers than this in all parameters a single candidate's gradients are autograd's own.

    Linear layers excepted. There closed forms spend more on their many small operations than they save. One thread,
    autograd's time over theirs: lenet (10 thousand numbers) 0.76, resnet20 (270 thousand) 0.77, cnn64 at 16 pixels
    (900 thousand) 1.04; two candidates of lenet 0.95, four 1.3.
    """


HANDLE_LIMITS = HandleLimits()
"""The limits in force."""


class GradientHandle(Protocol):
    """One parameter's gradient for every candidate, seen through what objectives need of it."""

    @property
    def candidates(self) -> int:
        """How many candidates there are, C."""

    def squared_norm(self, mask: Tensor | None = None) -> Tensor:
        """Squared L2 norm, (C,), of the numbers where `mask`, of the parameter's shape, is 1; of all without one."""

    def dot(self, target: Tensor) -> Tensor:
        """Inner product with one target of the parameter's shape, (C,)."""

    def squared_distance(self, target: Tensor, target_square: Tensor) -> Tensor:
        """Squared L2 distance to the target, (C,); `target_square` () is the target's squared norm."""

    def dense(self) -> Tensor:
        """The gradient itself, (C, *parameter shape)."""

    def split(self, counts: Sequence[int]) -> list[Self]:
        """Handles on so many candidates each, in order; their slopes are put together at once."""


@dataclass(frozen=True)
class DenseHandle:
    """A gradient held as a tensor (C, *parameter shape)."""

    gradient: Tensor

    @property
    def candidates(self) -> int:
        """See `GradientHandle`."""
        return len(self.gradient)

    def squared_norm(self, mask: Tensor | None = None) -> Tensor:
        """See `GradientHandle`."""
        if mask is None:
            return _squares(_alike(self.gradient, self.gradient[0])[0])
        numbers, known = _alike(self.gradient, mask)
        return numbers.square() @ known

    def dot(self, target: Tensor) -> Tensor:
        """See `GradientHandle`."""
        numbers, wanted = _alike(self.gradient, target)
        return numbers @ wanted

    def squared_distance(self, target: Tensor, target_square: Tensor) -> Tensor:  # noqa: ARG002
        """See `GradientHandle`; the difference is taken directly, which keeps more digits."""
        numbers, wanted = _alike(self.gradient, target)
        return _squares(numbers - wanted)

    def dense(self) -> Tensor:
        """See `GradientHandle`."""
        return self.gradient

    def split(self, counts: Sequence[int]) -> list[Self]:
        """See `GradientHandle`."""
        return [replace(self, gradient=part) for part in self.gradient.split(list(counts))]


@dataclass(frozen=True)
class GhostHandle:
    """A linear layer's weight gradient, sum over b of error_b input_b^T, held as its two factors.

    `error` (C, B, O) and `input` (C, B, I); with token axes, or where the layer is called several times, B is the
    number of all vectors that entered it. Exact: norms and inner products use the B x B Gram matrices.
    """

    error: Tensor
    input: Tensor

    @property
    def candidates(self) -> int:
        """See `GradientHandle`."""
        return len(self.error)

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

    def dot_factors(self, left: Tensor, right: Tensor) -> Tensor:
        """`dot` with the target `left @ right`, (O, r) and (r, I), which is never formed."""
        return ((self.error @ left) * (self.input @ right.mT)).sum((1, 2))

    def squared_distance(self, target: Tensor, target_square: Tensor) -> Tensor:
        """See `GradientHandle`."""
        return self.squared_norm() - 2.0 * self.dot(target) + target_square

    def dense(self) -> Tensor:
        """See `GradientHandle`."""
        return self.error.mT @ self.input

    def split(self, counts: Sequence[int]) -> list[Self]:
        """See `GradientHandle`."""
        parts = zip(self.error.split(list(counts)), self.input.split(list(counts)), strict=True)
        return [replace(self, error=error, input=input_) for error, input_ in parts]


@dataclass(frozen=True)
class PatchHandle:
    """A convolution's weight gradient, of `shape` (O, I, rows, columns), held as the factors of errors and patches.

    `factors` have the weight's inner axes in the order of `as_matrix`. For few pixels, as deep in a residual network.
    """

    factors: GhostHandle
    shape: torch.Size

    @property
    def candidates(self) -> int:
        """See `GradientHandle`."""
        return self.factors.candidates

    def squared_norm(self, mask: Tensor | None = None) -> Tensor:
        """See `GradientHandle`."""
        if mask is not None:
            return DenseHandle(self.dense()).squared_norm(mask)
        return self.factors.squared_norm()

    def dot(self, target: Tensor) -> Tensor:
        """See `GradientHandle`."""
        return self.factors.dot(as_matrix(target))

    def dot_factors(self, left: Tensor, right: Tensor) -> Tensor:
        """See `GhostHandle`; the target is what `as_matrix` makes of it."""
        return self.factors.dot_factors(left, right)

    def squared_distance(self, target: Tensor, target_square: Tensor) -> Tensor:
        """See `GradientHandle`."""
        return self.factors.squared_distance(as_matrix(target), target_square)

    def dense(self) -> Tensor:
        """See `GradientHandle`."""
        _, inputs, rows, columns = self.shape
        found: Tensor = self.factors.dense().unflatten(2, (rows, columns, inputs)).movedim(-1, 2)
        return found

    def split(self, counts: Sequence[int]) -> list[Self]:
        """See `GradientHandle`."""
        return [replace(self, factors=part) for part in self.factors.split(counts)]


def as_matrix(weight: Tensor) -> Tensor:
    """A weight (O, I, ...) as a matrix (O, N); a convolution's with the channels last."""
    return (weight.movedim(1, -1) if weight.dim() == 4 else weight).flatten(1)


def gradient_handles(
    model: nn.Module,
    state: ModelState,
    images: Tensor,
    loss_of: LossOf,
    *,
    ghost: bool = True,
    rows: Tensors | None = None,
    linear_only: bool = False,
    known: Known | None = None,
) -> dict[str, GradientHandle]:
    """Handles by parameter name, in the state's order, for candidate images (C, B, 3, S, S), for any network.

    Differentiable with respect to `images` and whatever `loss_of` closes over. A parameter that the loss does not
    reach has a gradient of zeros. `ghost=False` forms the linear layers' gradients too (the plain form, for
    comparison). `linear_only` leaves all other layers' gradients to autograd (`autograd_pays`). `rows` are buffers with
    one row for each image, (C * B, ...) by name. `known` is what earlier passes have shown of the network. Raises
    `InputError` for a network that draws random numbers, gives no logits, or has integer parameters or an operation
    without a second derivative.
    """
    return stack_handles(
        [
            _handles(traced, state, ghost=ghost)
            for traced in trace(model, state, images, loss_of, rows, linear_only=linear_only, known=known)
        ]
    )


def autograd_pays(state: ModelState, candidates: int, limits: HandleLimits = HANDLE_LIMITS) -> bool:
    """Whether gradients take less time by autograd than by closed forms, for so many candidates together."""
    parameters = state.parameters.values()
    on_cpu = all(value.device.type == "cpu" for value in parameters)
    return on_cpu and candidates == 1 and sum(value.numel() for value in parameters) <= limits.few


def stack_handles(each: Sequence[Mapping[str, GradientHandle]]) -> dict[str, GradientHandle]:
    """One handle over all candidates for each parameter, from handles over some of them each."""
    if len(each) == 1:
        return dict(each[0])
    stacked: dict[str, GradientHandle] = {}
    for name in each[0]:
        parts = [handles[name] for handles in each]
        ghosts = [part for part in parts if isinstance(part, GhostHandle)]
        if len(ghosts) == len(parts):
            stacked[name] = _stacked(ghosts)
            continue
        patches = [part for part in parts if isinstance(part, PatchHandle)]
        if len(patches) == len(parts):
            factors = [patch.factors for patch in patches]
            stacked[name] = PatchHandle(_stacked(factors), patches[0].shape)
        else:
            stacked[name] = DenseHandle(torch.cat([part.dense() for part in parts]))
    return stacked


def _stacked(each: Sequence[GhostHandle]) -> GhostHandle:
    """Factors over all candidates."""
    return GhostHandle(torch.cat([part.error for part in each]), torch.cat([part.input for part in each]))


@dataclass
class _Parts:
    """What adds up to one parameter's gradient; `own` says whether all factors are from its own layer."""

    factors: list[GhostHandle] = field(default_factory=list)
    dense: list[Tensor] = field(default_factory=list)
    own: bool = True

    def handle(self, parameter: Tensor, candidates: int, images: int, *, ghost: bool) -> GradientHandle:
        """The sum, for so many candidates of so many images."""
        convolution = parameter.dim() == 4
        if self.factors and not self.dense and self.own and ghost:
            whole = _joined(self.factors)
            if convolution and len(self.factors) == 1:
                return PatchHandle(whole, parameter.shape)
            if not convolution and _is_less_work(whole, images):
                return whole
        formed = [PatchHandle(f, parameter.shape) if convolution else f for f in self.factors]
        terms = [*self.dense, *(factor.dense() for factor in formed)]
        if not terms:
            return DenseHandle(parameter.detach().new_zeros((candidates, *parameter.shape)))
        return DenseHandle(sum(terms[1:], start=terms[0]))


def _handles(traced: Traced, state: ModelState, *, ghost: bool) -> dict[str, GradientHandle]:
    candidates = traced.candidates
    parts = {name: _Parts() for name in state.parameters}
    for call, error in zip(traced.calls, traced.errors, strict=True):
        if error is None:
            continue
        factored = call.has_factors(error, candidates)
        for own, gradient in call.gradients(error, candidates, weight=not factored).items():
            parts[call.names[own]].dense.append(gradient)
        if factored:
            weight = call.names["weight"]
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


def _squares(numbers: Tensor) -> Tensor:
    """The squared norm of each row, (C,) of (C, N)."""
    return _Squares.apply(numbers)  # type: ignore[no-any-return]


class _Squares(torch.autograd.Function):
    """Goes back in one pass; the library's norm takes three, for where a norm is 0 it has no derivative."""

    @staticmethod
    def forward(ctx: Any, numbers: Tensor) -> Tensor:
        ctx.save_for_backward(numbers)
        squares: Tensor = vector_norm(numbers, dim=1).square()
        return squares

    @staticmethod
    def backward(ctx: Any, slopes: Tensor) -> Tensor:
        (numbers,) = ctx.saved_tensors
        return (2.0 * slopes)[:, None] * numbers  # type: ignore[no-any-return]


def _alike(gradients: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients (C, *shape) as (C, N) and a target (*shape) as (N,), in one order: the one that they lie in.

    The order is for inner products alone; `flat` has the parameter's own.
    """
    if target.dim() == 4 and target.is_contiguous(memory_format=torch.channels_last):
        gradients, target = gradients.movedim(2, -1), target.movedim(1, -1)
    return flat(gradients), target.reshape(-1)
