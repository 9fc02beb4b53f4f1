"""One differentiable pass of candidates through any network, and where its loss's gradient comes from.

Every parameter is put in as an alias. While a layer with a closed form runs, its parameters are themselves again, and
its call is recorded. So the loss's gradient by an alias is exactly what the parameter is used for outside of recorded
calls, however the network uses it; that and the calls add up to the parameter's gradient.

Axes: C candidates, B images each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from attack_core.gradients.calls import Call, has_closed_form, is_plain_call, normalises_by_batch
from attack_core.gradients.convolutions import Geometry
from attack_core.gradients.kernels.pooling import is_plain, means_of
from attack_core.gradients.kernels.replaced import replaced as replaced_by
from attack_core.gradients.operations import comes_from_libraries, needs_replacing, twice_differentiable
from attack_core.gradients.refusals import (
    check_functions,
    check_logits,
    check_parameters,
    no_draws,
    second_derivatives,
)
from fl_core.base.types import ModelState, Tensors
from fl_core.models.forward import predict

LossOf = Callable[[Tensor], Tensor]
"""From logits (C, B, K) to each candidate's training loss (C,)."""


@dataclass(frozen=True, kw_only=True)
class TracingLimits:
    """When candidates are known to go through a network together; set by what float32 holds, not by measurement."""

    alike: float = 1e-4
    """How far, relative to the largest number, an image's numbers may be off beside others': sums are rounded anew."""


TRACING_LIMITS = TracingLimits()
"""The limits in force."""


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


class Known:
    """What passes of one network have shown of it; later passes of images of the same shape go without checks.

    Checks read numbers from a device, which stands still meanwhile. Weights and images may differ from pass to pass.
    """

    def __init__(self) -> None:
        self._layers: dict[bool, _Layers] = {}
        self._together: dict[torch.Size, bool] = {}

    def layers(self, model: nn.Module, parameters: Tensors, *, linear_only: bool) -> _Layers:
        """The network's layers, found once; raises `InputError` for parameters that have no gradient."""
        if linear_only not in self._layers:
            check_parameters(parameters)
            layers = _Layers.of(model, parameters)
            self._layers[linear_only] = layers.linear() if linear_only else layers
        return self._layers[linear_only]

    def together(self, shape: torch.Size) -> bool | None:
        """Whether all candidates of images of this shape (C, B, ...) go through together; None: not known yet."""
        return self._together.get(shape)

    def learn(self, shape: torch.Size, *, together: bool) -> None:
        """Keep what a pass with all checks has shown."""
        self._together[shape] = together


def trace(
    model: nn.Module,
    state: ModelState,
    images: Tensor,
    loss_of: LossOf,
    rows: Tensors | None = None,
    *,
    linear_only: bool = False,
    known: Known | None = None,
) -> list[Traced]:
    """Passes of candidate images (C, B, ...): one of all candidates, or one of each where they can't go together.

    `rows` are buffers with one row for each image, (C * B, ...) by name. With `linear_only` no calls but
    linear layers' are recorded, and all else is left to autograd. `known` is of this network alone, and learns from
    the pass. Raises `InputError` for what can't be followed: `attack_core.gradients.refusals`.
    """
    known = known or Known()
    layers = known.layers(model, state.parameters, linear_only=linear_only)
    together = known.together(images.shape)
    batch = _Batch(model, state, images, rows or {}, layers, checked=together is None)
    if len(images) > 1 and layers.together and together is not False:
        numbers = batch.ends if together is None and not layers.libraries else ()
        alone = [(number, batch.image(number)) for number in numbers]
        run = batch.run(slice(0, len(images)))
        if all(_is_part(one, run, number, images.shape[0] * images.shape[1]) for number, one in alone):
            whole = batch.traced([run], loss_of)
            if not whole[0].rest:
                known.learn(images.shape, together=True)
                return whole
    each = batch.traced([batch.run(slice(i, i + 1)) for i in range(len(images))], loss_of)
    known.learn(images.shape, together=False)
    return each


def couples_examples(model: nn.Module) -> bool:
    """Whether one image's activations depend on the others' in the batch (BatchNorm on the batch's statistics)."""
    return any(map(_couples, model.modules()))


def _couples(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) and normalises_by_batch(module)


@dataclass(frozen=True)
class _Layers:
    """What a network's layers say of it, found in one walk.

    `closed` are those with a closed form: dotted name, module, and the state's name of each own parameter. `coupled`
    says whether BatchNorm mixes the images of a batch, `together` whether all layers with parameters have a closed form
    and none mixes images. `means` are those of `kernels.pooling`. `libraries` and `replaced` are
    `comes_from_libraries` and `needs_replacing`.
    """

    closed: tuple[tuple[str, nn.Module, Mapping[str, str]], ...]
    coupled: bool
    together: bool
    means: tuple[nn.AvgPool2d, ...]
    libraries: bool
    replaced: bool

    @classmethod
    def of(cls, model: nn.Module, parameters: Tensors) -> _Layers:
        """Of `model`, whose `parameters` are followed."""
        names: dict[int, str] = {}
        closed, coupled, all_closed = [], False, True
        for prefix, module in model.named_modules():
            coupled = coupled or _couples(module)
            held = {kind: value for kind, value in module._parameters.items() if value is not None}
            for kind, value in held.items():
                names.setdefault(id(value), f"{prefix}.{kind}" if prefix else kind)
            if not has_closed_form(module):
                all_closed = all_closed and not held
                continue
            own = {kind: names[id(value)] for kind, value in held.items() if names[id(value)] in parameters}
            if own:
                closed.append((prefix, module, own))
        return cls(
            closed=tuple(closed),
            coupled=coupled,
            together=all_closed and not coupled,
            means=tuple(m for m in model.modules() if isinstance(m, nn.AvgPool2d) and is_plain(m)),
            libraries=comes_from_libraries(model),
            replaced=needs_replacing(model),
        )

    def linear(self) -> _Layers:
        """The same where linear layers alone have a closed form."""
        linear = tuple(layer for layer in self.closed if isinstance(layer[1], nn.Linear))
        return replace(self, closed=linear, together=self.together and linear == self.closed)


@dataclass
class _Pass:
    """What one forward pass left: recorded calls, logits (N, K), and aliases by parameter name."""

    aliases: Tensors
    calls: list[Call] = field(default_factory=list)
    logits: Tensor = field(default_factory=lambda: torch.empty(0))


@dataclass(frozen=True)
class _Batch:
    """Candidates' images (C, B, ...) for one network under one state; `checked` says whether passes are."""

    model: nn.Module
    state: ModelState
    images: Tensor
    rows: Tensors
    layers: _Layers
    checked: bool

    def run(self, candidates: slice) -> _Pass:
        """One forward pass of some candidates."""
        size = self.images.shape[1]
        rows = slice(candidates.start * size, candidates.stop * size)
        return self._forward(self.images[candidates].flatten(0, 1), rows)

    @property
    def ends(self) -> tuple[int, int]:
        """The first and the last of all images; one alone may be what all depend on, as the one with the maximum."""
        return 0, self.images.shape[0] * self.images.shape[1] - 1

    @torch.no_grad()
    def image(self, number: int) -> _Pass:
        """One forward pass of a single image of all."""
        own = slice(number, number + 1)
        return self._forward(self.images.flatten(0, 1)[own], own)

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
        if self.layers.coupled:
            state = state.with_own_buffers()
        run = _Pass(state.parameters)
        checked = no_draws(self.model, state, images) if self.checked else nullcontext()
        differentiable = twice_differentiable(self.model, replaced=self.layers.replaced)
        means = replaced_by(self.layers.means, "forward", means_of)
        with _recording(self.layers, parameters, run), means, differentiable, checked:
            run.logits = check_logits(predict(self.model, state, images), len(images))
        if self.checked and not self.layers.libraries:
            check_functions(run.logits)
        return run


def _is_part(alone: _Pass, among: _Pass, number: int, images: int) -> bool:
    """Whether image `number` gives by itself what it gives among all: each row of every call is one image's."""
    if len(alone.calls) != len(among.calls):
        return False
    pairs = [(alone.logits, among.logits)]
    for one, other in zip(alone.calls, among.calls, strict=True):
        pairs += [(one.input, other.input), (one.output, other.output)]
    return all(_is_part_number(one, other.detach(), number, images) for one, other in pairs)


def _is_part_number(one: Tensor, whole: Tensor, number: int, parts: int) -> bool:
    """Whether part `number` of so many equal parts of `whole` is `one`, up to rounding."""
    if len(whole) != parts * len(one) or whole.shape[1:] != one.shape[1:]:
        return False
    part = whole[number * len(one) : (number + 1) * len(one)]
    return bool((part - one).abs().max() <= TRACING_LIMITS.alike * whole.abs().max())


def _alias(parameter: Tensor) -> Tensor:
    """The parameter as a tensor of its own in the graph, which what depends on it goes on depending on."""
    return (
        parameter.view_as(parameter) if parameter.requires_grad else parameter.detach().requires_grad_(True)
    )


@contextmanager
def _recording(layers: _Layers, parameters: Tensors, run: _Pass) -> Iterator[None]:
    """Records calls with a closed form, during which a layer has its `parameters` in the place of their aliases."""
    with ExitStack() as hooks:
        for name, module, own in layers.closed:
            layer = _Recorder(name, own, parameters, run)
            hooks.callback(module.register_forward_pre_hook(layer.begin).remove)
            hooks.callback(module.register_forward_hook(layer.end).remove)
        yield


class _Recorder:
    """One layer's hooks; `own` are the state's names of its parameters."""

    def __init__(self, name: str, own: Mapping[str, str], parameters: Tensors, run: _Pass) -> None:
        self._name, self._own, self._run = name, own, run
        self._itself = {kind: parameters[each] for kind, each in own.items()}
        self._aliases = {kind: run.aliases[each] for kind, each in own.items()}

    def begin(self, module: nn.Module, arguments: tuple[object, ...]) -> None:
        """Before a call: parameters are themselves, where the call will be recorded."""
        if is_plain_call(module, arguments):
            module._parameters.update(self._itself)  # type: ignore[arg-type]
            if isinstance(module, nn.Conv2d):
                module._conv_forward = Geometry.of(module).convolution  # type: ignore[method-assign,assignment]

    def end(self, module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """After a call: keep it, and give the network a copy, which it may change in place."""
        if not is_plain_call(module, arguments):
            return output
        module._parameters.update(self._aliases)  # type: ignore[arg-type]
        module.__dict__.pop("_conv_forward", None)
        if not output.requires_grad and torch.is_grad_enabled():
            # Nothing that moves enters this call, but the loss's gradient at its output is wanted all the same.
            output = output.detach().requires_grad_(True)
        statistics = None
        if isinstance(module, _BatchNorm) and module.running_mean is not None and not module.training:
            statistics = (module.running_mean, cast("Tensor", module.running_var))
        self._run.calls.append(Call(self._name, module, self._own, arguments[0], output, statistics))
        return output.clone()
