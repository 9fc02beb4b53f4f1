"""Which calls of linear layers a network's logits came from, with nothing but ReLUs between them.

Read off the autograd graph of one forward pass, so that it does not matter whether a ReLU, a flatten or a dropout in
eval mode is a layer, a function or a method, nor how modules are nested.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from attack_core.gradients.calls import has_closed_form
from attack_core.gradients.refusals import check_logits, check_parameters
from fl_core.base.types import ModelState
from fl_core.models.forward import predict

Node = Any
"""A node of the autograd graph; the library has no type for it that says what it saves."""

_SAME_NUMBERS = {
    "ViewBackward0",
    "UnsafeViewBackward0",
    "ReshapeAliasBackward0",
    "AliasBackward0",
    "CloneBackward0",
    "SqueezeBackward0",
    "SqueezeBackward1",
    "SqueezeBackward2",
    "UnsqueezeBackward0",
}
"""What hands on the same numbers in the same order; permutations do not."""


@dataclass(frozen=True)
class LinearCall:
    """A linear layer's call on one vector for each image: name, input (N, I), output (N, O), both without history.

    `begins` and `ends` are the graph's nodes of the two. `alone` says that nothing but this call uses its parameters.
    """

    name: str
    module: nn.Linear
    input: Tensor
    output: Tensor
    begins: Node
    ends: Node
    alone: bool = True


@dataclass(frozen=True)
class Graph:
    """One forward pass: logits (N, K), and the calls of linear layers by the node of their outputs."""

    logits: Tensor
    calls: Mapping[Node, LinearCall]

    @classmethod
    def of(cls, model: nn.Module, state: ModelState, images: Tensor) -> Graph:
        """A pass of images (N, ...); `state` is left alone."""
        check_parameters(state.parameters)
        leaves = {name: value.detach().requires_grad_(True) for name, value in state.parameters.items()}
        moving = ModelState(parameters=leaves, buffers=state.buffers).with_own_buffers()
        with torch.enable_grad(), _linear_calls(model) as found:
            logits = check_logits(predict(model, moving, images.detach().requires_grad_(True)), len(images))
        uses = _uses(logits.grad_fn)
        kept = {}
        for call in found:
            own = [leaves.get(f"{call.name}.{kind}") for kind in ("weight", "bias")]
            alone = all(leaf is not None and uses[id(leaf)] == 1 for leaf in own)
            kept[call.ends] = replace(call, alone=alone)
        return cls(logits, kept)

    def source(self, node: Node, *, relu: bool) -> LinearCall | None:
        """The call whose output this node hands on: through ReLUs, of which several are one, or without any."""
        rectified = False
        while node is not None and node not in self.calls:
            if _is_relu(node):
                rectified = True
            elif node.name() not in _SAME_NUMBERS:
                return None
            node = node.next_functions[0][0]
        return None if node is None or rectified != relu else self.calls[node]


def _is_relu(node: Node) -> bool:
    match node.name():
        case "ReluBackward0":
            return True
        case "ClampMinBackward0":
            return bool(node._saved_min == 0)
        case "ClampBackward1" | "ClampBackward0":
            return (
                isinstance(node._saved_min, int | float) and node._saved_min == 0 and node._saved_max is None
            )
        case "ThresholdBackward0":
            return bool(node._saved_threshold == 0)
        case _:
            return False


@contextmanager
def _linear_calls(model: nn.Module) -> Iterator[list[LinearCall]]:
    """Calls on one vector for each image while it lasts, in order."""
    calls: list[LinearCall] = []

    def keep(name: str, module: nn.Linear, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        # What follows may change the output in place, and takes its node over then.
        if len(inputs) == 1 and inputs[0].dim() == 2:
            entered, left = inputs[0].detach().clone(), output.detach().clone()
            calls.append(LinearCall(name, module, entered, left, inputs[0].grad_fn, output.grad_fn))

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear) and has_closed_form(module):
                hooks.callback(module.register_forward_hook(partial(keep, name)).remove)
        yield calls


def graph_nodes(end: Node) -> Iterator[Node]:
    """Every node of the autograd graph that ends in `end`, once, none for None; leaves have a `variable`."""
    left = [] if end is None else [end]
    seen = {None, *left}
    while left:
        node = left.pop()
        yield node
        new = {below for below, _ in node.next_functions} - seen
        seen |= new
        left += new


def _uses(end: Node) -> Counter[int]:
    """How often each leaf is used on the way to `end`, by identity."""
    below = (each for node in graph_nodes(end) for each, _ in node.next_functions)
    return Counter(id(leaf.variable) for leaf in below if hasattr(leaf, "variable"))
