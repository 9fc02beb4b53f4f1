"""Local SGD of one candidate, step by step, differentiable with respect to its images.

With momentum m from velocity v the weights before step t (from 1) are w0 - lr (A v + sum over j < t of s_(t-j) g_j),
where s_k = 1 + m + ... + m^(k-1), A = m + ... + m^(t-1) and g_j is the gradient of step j. So a linear layer's
weights need never be formed: each g_j is a product of a few errors and inputs, and what it adds to the layer's output
follows from them (the ghost form of `attack_core.gradients.handles`, along a path). The same holds for the
displacement that is matched. All other parameters, most of which are small, are carried as tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from attack_core.gradients.handles import DenseHandle, GhostHandle, GradientHandle, gradient_handles
from attack_core.gradients.targets import geometric, travelled
from attack_core.gradients.tracing import Known, LossOf
from fl_core.base.types import ModelState, Tensors

Batch = tuple[int, ...]
"""The image slots that one local step trains on."""
Shift = Callable[[Tensor], Tensor]
"""From a linear layer's inputs (N, ..., I) to what is added to its outputs (N, ..., O)."""


@dataclass(frozen=True, kw_only=True)
class LocalPath:
    """A client's local training as its attacker assumes it.

    `velocity` are the momentum buffers at its start, by parameter name, {} for zero. `factored` are the weights that
    are carried as factors: `factored_weights`. `checkpoint` recomputes each step on the way back. `known` is what
    passes have shown of the network.
    """

    model: nn.Module
    state: ModelState
    lr: float
    momentum: float
    velocity: Tensors
    batches: tuple[Batch, ...]
    factored: tuple[str, ...]
    checkpoint: bool
    known: Known = field(default_factory=Known)


def soft_loss(labels: Tensor) -> LossOf:
    """Cross-entropy with label probabilities (C, B, K), averaged over each candidate's batch."""
    return lambda logits: -(labels * logits.log_softmax(dim=-1)).sum(-1).mean(1)


def handles_at(
    model: nn.Module,
    state: ModelState,
    shifts: Mapping[str, Shift],
    images: Tensor,
    labels: Tensor,
    known: Known | None = None,
) -> dict[str, GradientHandle]:
    """`gradient_handles` where linear weights are `state`'s plus what `shifts` says, by parameter name.

    Images (C, B, 3, S, S), label probabilities (C, B, K).
    """
    with _shifted(model, shifts):
        return gradient_handles(model, state, images, soft_loss(labels), known=known)


def factored_weights(model: nn.Module, state: ModelState, images: Tensor) -> tuple[str, ...]:
    """The linear layers' weights whose gradients come as factors for a batch of images (B, 3, S, S).

    Those that nothing but calls of their own layer uses, however often it is called and on whatever axes, where the
    factors are less work than the gradient.
    """
    with torch.enable_grad():
        handles = gradient_handles(model, state, images[None], lambda logits: logits.logsumexp(-1).mean(1))
    return tuple(name for name, handle in handles.items() if isinstance(handle, GhostHandle))


def path_handles(path: LocalPath, images: Tensor, labels: Tensor) -> dict[str, GradientHandle]:
    """The weighted mean of the steps' gradients, for one candidate (C = 1).

    Images (B, 3, S, S), label probabilities (B, K). Times -lr and the length of the path, plus what the velocity
    carries, it is the weight delta. The weights are s_(T-j+1), which sum to the length.
    """
    steps, m = len(path.batches), path.momentum
    linear = path.factored
    weights = {name: value for name, value in path.state.parameters.items() if name not in linear}
    velocity = {name: path.velocity[name] for name in weights if path.velocity}
    mean: dict[str, Tensor] = {}
    factors: dict[str, list[GhostHandle]] = {name: [] for name in linear}
    scales = [geometric(m, steps - t) / travelled(m, steps) for t in range(steps)]
    for t, batch in enumerate(path.batches):
        step = _Step(path, tuple(weights), linear, t)
        gradients, found = step.take(images[_slots(batch)], labels[_slots(batch)], weights, factors)
        for name, gradient in gradients.items():
            mean[name] = scales[t] * gradient + (mean[name] if t else 0.0)
            velocity[name] = gradient + (m * velocity[name] if name in velocity else 0.0)
        weights = {name: value - path.lr * velocity[name] for name, value in weights.items()}
        for name, factor in found.items():
            factors[name].append(factor)
    handles: dict[str, GradientHandle] = {name: DenseHandle(value[None]) for name, value in mean.items()}
    for name, parts in factors.items():
        errors = torch.cat([scale * part.error for scale, part in zip(scales, parts, strict=True)], dim=1)
        handles[name] = GhostHandle(errors, torch.cat([part.input for part in parts], dim=1))
    return {name: handles[name] for name in path.state.parameters}


@dataclass(frozen=True)
class _Step:
    """Local step number `t` (from 0): a function from tensors to tensors, so that it can be recomputed.

    Takes the batch's images and label probabilities, the parameters named in `dense`, and for each weight in
    `linear` the errors and then the inputs of all steps before. Returns the gradients of `dense`, then error and
    input for each of `linear`.
    """

    path: LocalPath
    dense: tuple[str, ...]
    linear: tuple[str, ...]
    t: int

    def take(
        self, images: Tensor, labels: Tensor, weights: Tensors, factors: Mapping[str, Sequence[GhostHandle]]
    ) -> tuple[dict[str, Tensor], dict[str, GhostHandle]]:
        """Gradients by name, and the linear weights' gradients as factors."""
        past = [
            part
            for name in self.linear
            for part in (*(f.error for f in factors[name]), *(f.input for f in factors[name]))
        ]
        tensors = (images, labels, *(weights[name] for name in self.dense), *past)
        found = _Recomputed.apply(self, *tensors) if self.path.checkpoint else self(*tensors)
        gradients = dict(zip(self.dense, found, strict=False))
        rest = found[len(self.dense) :]
        pairs = zip(rest[0::2], rest[1::2], strict=True)
        return gradients, {name: GhostHandle(*pair) for name, pair in zip(self.linear, pairs, strict=True)}

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        images, labels, *rest = tensors
        path, split = self.path, len(self.dense)
        parameters = dict(path.state.parameters) | dict(zip(self.dense, rest, strict=False))
        state = ModelState(parameters=parameters, buffers=path.state.buffers)
        shifts = {
            name: self._shift(name, rest[split + 2 * self.t * i :][: 2 * self.t])
            for i, name in enumerate(self.linear)
        }
        shifts = shifts if self.t else {}
        handles = handles_at(path.model, state, shifts, images[None], labels[None], path.known)
        found = [handles[name].dense()[0] for name in self.dense]
        for name in self.linear:
            factors = handles[name]
            if not isinstance(factors, GhostHandle):
                raise AssertionError("linear weights come as factors")
            found += [factors.error, factors.input]
        return tuple(found)

    def _shift(self, name: str, past: Sequence[Tensor]) -> Shift:
        """What the steps so far have added to the weight `name`, given their errors and then their inputs."""
        lr, m, t = self.path.lr, self.path.momentum, self.t
        velocity = self.path.velocity.get(name)

        def shift(x: Tensor) -> Tensor:
            errors = [geometric(m, t - j) * error[0] for j, error in enumerate(past[:t])]
            moved = (x @ torch.cat([inputs[0] for inputs in past[t:]]).mT) @ torch.cat(errors)
            if velocity is not None:
                moved = moved + m * geometric(m, t) * (x @ velocity.mT)
            return -lr * moved

        return shift


def _slots(batch: Batch) -> slice | list[int]:
    """An index of these images: a range where they follow each other, since a list has to be put on the device."""
    first, last = batch[0], batch[-1] + 1
    return slice(first, last) if batch == tuple(range(first, last)) else list(batch)


class _Recomputed(torch.autograd.Function):
    """A function of tensors that keeps only its inputs and runs again on the way back.

    The library's own checkpoints either refuse `torch.autograd.grad` or would run the inner backward twice.
    """

    @staticmethod
    def forward(ctx: Any, run: Callable[..., tuple[Tensor, ...]], *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.run = run
        ctx.save_for_backward(*tensors)
        with torch.enable_grad():
            # The loss's gradient at the layers' outputs is part of the function, so something must require one.
            return tuple(found.detach() for found in run(*_leaves(tensors, [True] * len(tensors))))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad[1:]
        leaves = _leaves(ctx.saved_tensors, wanted)
        with torch.enable_grad():
            found = ctx.run(*leaves)
        moving = [leaf for leaf, needed in zip(leaves, wanted, strict=True) if needed]
        pairs = [(f, g) for f, g in zip(found, gradients, strict=True) if f.requires_grad]
        outputs, seeds = zip(*pairs, strict=True)
        back = iter(torch.autograd.grad(outputs, moving, seeds, allow_unused=True))
        return (None, *(next(back) if needed else None for needed in wanted))


def _leaves(tensors: Sequence[Tensor], wanted: Sequence[bool]) -> list[Tensor]:
    return [tensor.detach().requires_grad_(needed) for tensor, needed in zip(tensors, wanted, strict=True)]


@contextmanager
def _shifted(model: nn.Module, shifts: Mapping[str, Shift]) -> Iterator[None]:
    """While it lasts, every named linear layer adds its shift to its output, before anybody else sees it."""

    def add(shift: Shift, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output + shift(inputs[0])

    with ExitStack() as hooks:
        for name, shift in shifts.items():
            layer = model.get_submodule(name.removesuffix(".weight"))
            hooks.callback(layer.register_forward_hook(partial(add, shift)).remove)
        yield
