"""One differentiable pass of candidates through any network, and where its loss's gradient comes from.

Every parameter is put in as an alias. While a layer with a closed form runs, its parameters are themselves again, and
its call is recorded. So the loss's gradient by an alias is exactly what the parameter is used for outside of recorded
calls, however the network uses it; that and the calls add up to the parameter's gradient.

Axes: C candidates, B images each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

from attack_core.gradients.calls import Call, has_closed_form, is_plain_call, normalises_by_batch
from attack_core.gradients.refusals import check_logits, check_parameters, no_draws, second_derivatives
from fl_core.base.types import ModelState, Tensors
from fl_core.models.zoo import predict

LossOf = Callable[[Tensor], Tensor]
"""From logits (C, B, K) to each candidate's training loss (C,)."""

_KEEP_IMAGES_APART = ("torch", "torchvision", "fl_core")
"""The libraries whose layers have the images on the first axis and don't mix them, but for BatchNorm."""
_ALIKE = 1e-4
"""How far, relative to the largest, an image's numbers may be off beside others: convolutions round differently."""


@dataclass(frozen=True)
class Traced:
    """A pass of some candidates: calls with a closed form, the loss's gradient at the output of each, and the rest.

    An error is None where the loss does not see the call. `rest` (C, *parameter shape) by parameter name is the
    gradient by whatever else the parameter is used for; only those are there that are used.
    """

    candidates: int
    images: int
    """How many each candidate has."""
    calls: tuple[Call, ...]
    errors: tuple[Tensor | None, ...]
    rest: Tensors


def trace(
    model: nn.Module, state: ModelState, images: Tensor, loss_of: LossOf, rows: Tensors | None = None
) -> list[Traced]:
    """Passes of candidate images (C, B, ...): one of all candidates, or one of each where they can't go together.

    `rows` are buffers with one row for each image, (C * B, ...) by name. Raises `InputError` for what can't be
    followed: `attack_core.gradients.refusals`.
    """
    check_parameters(state.parameters)
    batch = _Batch(model, state, images, rows or {})
    each = [slice(i, i + 1) for i in range(len(images))]
    if len(images) > 1 and goes_together(model):
        alone = None if _is_known(model) else batch.first_image()
        run = batch.run(slice(0, len(images)))
        if alone is None or _begins_with(alone, run, images.shape[0] * images.shape[1]):
            whole = batch.traced([run], loss_of)
            if not whole[0].rest:
                return whole
    return batch.traced([batch.run(group) for group in each], loss_of)


def couples_examples(model: nn.Module) -> bool:
    """Whether one image's activations depend on the others' in the batch (BatchNorm on the batch's statistics)."""
    return any(
        isinstance(module, _BatchNorm) and normalises_by_batch(module) for module in model.modules()
    )


def goes_together(model: nn.Module) -> bool:
    """Whether every layer with parameters has a closed form, and none mixes the images of a batch."""
    with_parameters = (module for module in model.modules() if any(True for _ in module.parameters(False)))
    return not couples_examples(model) and all(map(has_closed_form, with_parameters))


@contextmanager
def plain_attention() -> Iterator[None]:
    """While it lasts, attention is computed from operations that have second derivatives; fused kernels have none."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


@dataclass
class _Pass:
    """What one forward pass left: recorded calls, logits (N, K), and aliases by parameter name."""

    aliases: Tensors
    calls: list[Call] = field(default_factory=list)
    logits: Tensor = field(default_factory=lambda: torch.empty(0))


@dataclass(frozen=True)
class _Batch:
    """Candidates' images (C, B, ...) for one network under one state."""

    model: nn.Module
    state: ModelState
    images: Tensor
    rows: Tensors

    def run(self, candidates: slice) -> _Pass:
        """One forward pass of some candidates."""
        size = self.images.shape[1]
        rows = slice(candidates.start * size, candidates.stop * size)
        return self._forward(self.images[candidates].flatten(0, 1), rows)

    @torch.no_grad()
    def first_image(self) -> _Pass:
        """One forward pass of the first image alone."""
        return self._forward(self.images[0, :1], slice(0, 1))

    def traced(self, runs: Sequence[_Pass], loss_of: LossOf) -> list[Traced]:
        """What the loss of all candidates says of these passes, which together are of all."""
        size = self.images.shape[1]
        logits = torch.cat([run.logits for run in runs])
        total = loss_of(logits.unflatten(0, (-1, size))).sum()
        wanted = [
            tensor for run in runs for tensor in (*(call.output for call in run.calls), *run.aliases.values())
        ]
        with second_derivatives():
            found = iter(torch.autograd.grad(total, wanted, create_graph=True, allow_unused=True))
        traced = []
        for run in runs:
            errors = tuple(next(found) for _ in run.calls)
            rest = {name: next(found) for name in run.aliases}
            used = {name: value[None] for name, value in rest.items() if value is not None}
            traced.append(Traced(len(run.logits) // size, size, tuple(run.calls), errors, used))
        return traced

    def _forward(self, images: Tensor, rows: slice) -> _Pass:
        """One forward pass of images (N, ...), which are those in `rows` of all."""
        parameters = self.state.parameters
        state = ModelState(
            parameters={name: _alias(value) for name, value in parameters.items()},
            buffers={**self.state.buffers, **{name: value[rows] for name, value in self.rows.items()}},
        )
        if couples_examples(self.model):
            state = state.with_own_buffers()
        run = _Pass(state.parameters)
        with _recording(self.model, parameters, run), plain_attention(), no_draws(self.model, state, images):
            run.logits = check_logits(predict(self.model, state, images), len(images))
        return run


def _is_known(model: nn.Module) -> bool:
    """Whether every layer comes from a library whose layers keep images apart."""
    libraries = (type(module).__module__.partition(".")[0] for module in model.modules())
    return all(library in _KEEP_IMAGES_APART for library in libraries)


def _begins_with(alone: _Pass, among: _Pass, images: int) -> bool:
    """Whether the first image gives by itself what it gives among all: each row of every call is one image's."""
    if len(alone.calls) != len(among.calls):
        return False
    pairs = [(alone.logits, among.logits)]
    for one, other in zip(alone.calls, among.calls, strict=True):
        pairs += [(one.input, other.input), (one.output, other.output)]
    return all(_is_first_part(one, other.detach(), images) for one, other in pairs)


def _is_first_part(one: Tensor, whole: Tensor, parts: int) -> bool:
    """Whether the first of so many equal parts of `whole` is `one`, up to rounding."""
    if len(whole) != parts * len(one) or whole.shape[1:] != one.shape[1:]:
        return False
    return bool((whole[: len(one)] - one).abs().max() <= _ALIKE * whole.abs().max())


def _alias(parameter: Tensor) -> Tensor:
    """The parameter as a tensor of its own in the graph, which what depends on it goes on depending on."""
    return parameter.view_as(parameter) if parameter.requires_grad else parameter.detach().requires_grad_(True)


@contextmanager
def _recording(model: nn.Module, parameters: Tensors, run: _Pass) -> Iterator[None]:
    """Records calls with a closed form, during which a layer has its `parameters` in the place of their aliases."""
    names = {id(value): name for name, value in model.named_parameters()}

    def begin(own: Mapping[str, str], module: nn.Module, arguments: tuple[object, ...]) -> None:
        if is_plain_call(module, arguments):
            module._parameters.update({kind: parameters[name] for kind, name in own.items()})  # type: ignore[misc]

    def end(
        name: str, own: Mapping[str, str], module: nn.Module, arguments: tuple[object, ...], output: Tensor
    ) -> Tensor:
        if not is_plain_call(module, arguments):
            return output
        module._parameters.update({kind: run.aliases[name] for kind, name in own.items()})  # type: ignore[misc]
        if not output.requires_grad and torch.is_grad_enabled():
            # Nothing that moves enters this call, but the loss's gradient at its output is wanted all the same.
            output = output.detach().requires_grad_(True)
        statistics = None
        if isinstance(module, _BatchNorm) and not normalises_by_batch(module):
            statistics = (module.running_mean, module.running_var)
        run.calls.append(Call(name, module, own, arguments[0], output, statistics))  # type: ignore[arg-type]
        # The network goes on with a copy, so that what it does in place leaves the recorded output alone.
        return output.clone()

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if has_closed_form(module):
                own = {
                    kind: names[id(value)]
                    for kind, value in module.named_parameters(recurse=False)
                    if names[id(value)] in parameters
                }
                if not own:
                    continue
                hooks.callback(module.register_forward_pre_hook(partial(begin, own)).remove)
                hooks.callback(module.register_forward_hook(partial(end, name, own)).remove)
        yield
