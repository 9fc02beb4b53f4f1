"""What no attack on gradients can follow, each said in a sentence that names it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fl_core.base.errors import InputError
from fl_core.base.types import ModelState, Tensors
from fl_core.models.forward import predict

_MISSING = re.compile(r"derivative for '?(?:aten::)?(\w+)'? is not implemented")
_ONCE = "marked with @once_differentiable"
_ONCE_CODE = once_differentiable(lambda _: None).__code__


@contextmanager
def second_derivatives() -> Iterator[None]:
    """Where an operation of the network lacks a derivative that is taken meanwhile, say so (`InputError`)."""
    try:
        yield
    except RuntimeError as error:
        missing = _MISSING.search(str(error))
        if missing is None and _ONCE not in str(error):
            raise
        what = f"Operation {missing[1]!r}" if missing else "A custom function marked once_differentiable"
        raise InputError(
            f"{what} of the network has no second derivative, which matching gradients needs: put an operation in "
            "its place that has one."
        ) from error


def check_parameters(parameters: Tensors) -> None:
    """Refuse parameters that have no gradient."""
    for name, value in parameters.items():
        if not value.is_floating_point():
            raise InputError(
                f"The attack cannot follow parameter {name!r}: its numbers are {value.dtype}, which have no gradient; "
                "make it a buffer."
            )


def check_logits(logits: object, images: int) -> Tensor:
    """What a network gave for so many images, if it is logits (N, K)."""
    if isinstance(logits, Tensor) and logits.dim() == 2 and len(logits) == images:
        return logits
    found = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"type {type(logits).__name__}"
    raise InputError(
        f"The attack needs a network that gives logits of shape (images, classes): for {images} images this one gave "
        f"{found}."
    )


def check_functions(logits: Tensor) -> None:
    """Refuse custom functions marked once_differentiable on the way to the logits.

    Where the loss depends on the images by other ways too, autograd takes a missing second derivative for zero.
    """
    left, seen = [logits.grad_fn], {logits.grad_fn}
    while left:
        node = left.pop()
        if node is None:
            continue
        function = getattr(type(node), "_forward_cls", None)
        if function is not None and getattr(function.backward, "__code__", None) is _ONCE_CODE:
            raise InputError(
                f"Function {function.__name__!r} of the network is marked once_differentiable, and matching gradients "
                "needs its second derivative: write a backward that can be differentiated."
            )
        fresh = {behind for behind, _ in node.next_functions} - seen
        seen |= fresh
        left += fresh


@contextmanager
def no_draws(model: nn.Module, state: ModelState, images: Tensor) -> Iterator[None]:
    """Refuse a forward pass of `images` (N, ...) under `state` that drew random numbers, naming the layer that did."""
    before = random_state(images.device)
    yield
    if not _same(before, random_state(images.device)):
        name = _drawing_layer(model, state, images)
        layer = (
            f"layer {name!r} of type {type(model.get_submodule(name)).__name__}" if name else "the network"
        )
        raise InputError(
            f"The attack cannot follow {layer}: it draws random numbers, so two passes differ; use it in eval mode "
            "(model.batch_norm: eval), or take it out."
        )


def random_state(device: torch.device) -> tuple[Tensor, ...]:
    """Where torch's generators of the CPU and of `device` are."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    elif device.type == "mps" and torch.backends.mps.is_built():
        states.append(torch.mps.get_rng_state())
    return tuple(states)


def _same(before: tuple[Tensor, ...], after: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


@torch.no_grad()
def _drawing_layer(model: nn.Module, state: ModelState, images: Tensor) -> str:
    """The innermost layer that draws first; '' where only the network's own code does."""
    begun: list[tuple[Tensor, ...]] = []
    found: list[str] = []

    def begin(*_: object) -> None:
        begun.append(random_state(images.device))

    def end(name: str, *_: object) -> None:
        if not _same(begun.pop(), random_state(images.device)):
            found.append(name)

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            hooks.callback(module.register_forward_pre_hook(begin).remove)
            hooks.callback(module.register_forward_hook(partial(end, name)).remove)
        predict(model, state.with_own_buffers(), images)
    return found[0] if found else ""
