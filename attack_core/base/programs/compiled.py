"""Programs compiled by TorchInductor: operations on the same numbers that follow each other become one kernel.

An iteration reads and writes its tensors some eighty times between its convolutions; a kernel that does several
operations in one pass does so less often. Sums are taken in another order, so numbers are the same up to rounding.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from attack_core.base.programs.program import Program, Values
from attack_core.base.programs.recorded import Replay, not_recorded
from fl_core.base.device import products_of_cuda
from fl_core.base.errors import InputError
from fl_core.base.products.bf16 import products_are_rounded

log = logging.getLogger(__name__)

_OPTIONS = {
    "compile_threads": 1,
    "cpp_cache_precompile_headers": False,
    "cpp_wrapper": True,
    "force_disable_caches": True,
}
"""Compiled by this process, as one file, which is faster than a file for each kernel. Nothing is loaded from a disk
that others may have written to."""
_Layout = tuple[tuple[int, ...], tuple[int, ...], torch.dtype, torch.device]
"""A tensor's shape, its strides, its type and its device."""


@dataclass(frozen=True)
class _Traced:
    """A program's operations and all else that decides what they are compiled to. Equal ones share that."""

    text: str
    layouts: tuple[_Layout, ...]
    threads: int
    products: tuple[str, ...]
    graph: GraphModule = field(compare=False, repr=False)
    """The operations; it holds no tensor."""


def compile_program(program: Program, inputs: Values) -> Replay:
    """See `Record`. Programs of one process that do the same operations, of other victims for instance, share kernels.

    Whatever the program reads besides its inputs is read where it was, each time.
    """
    held = tuple(each.detach().clone() for each in inputs)
    if products_are_rounded():
        raise InputError(
            "A program cannot be compiled with products in bfloat16: its kernels would not round them."
        )
    try:
        traced, others = _traced(program, held)
        kernels = _kernels(traced)
    except Exception as error:
        raise not_recorded("be compiled", error) from error
    fixed = (*held, *others)
    theirs = {each.untyped_storage().data_ptr() for each in fixed}

    def replay(new: Values) -> Values:
        for there, value in zip(held, new, strict=True):
            there.copy_(value)
        with torch.no_grad():
            found = kernels(*fixed)
        return tuple(each.clone() if each.untyped_storage().data_ptr() in theirs else each for each in found)

    return replay


def _traced(program: Program, held: Values) -> tuple[_Traced, Values]:
    """The program's operations, and the tensors that it reads besides its inputs."""
    from torch.fx.experimental.proxy_tensor import make_fx

    graph = make_fx(lambda *given: program(*given))(*held)
    _check(graph)
    others = _as_inputs(graph)
    for node in graph.graph.nodes:
        node.meta.clear()
    graph = GraphModule({}, graph.graph)
    traced = _Traced(
        text=graph.code,
        layouts=tuple(_layout(each) for each in (*held, *others)),
        threads=torch.get_num_threads(),
        products=products_of_cuda(),
        graph=graph,
    )
    return traced, others


def _check(graph: GraphModule) -> None:
    """Raise `ValueError` for operations that would not be the same each time."""
    for node in graph.graph.nodes:
        tags = getattr(node.target, "tags", ())
        if torch.Tag.nondeterministic_seeded in tags:
            raise ValueError(f"{node.target} draws random numbers")
        if torch.Tag.dynamic_output_shape in tags and not _by_places(node):
            raise ValueError(f"the shape of what {node.target} gives depends on its numbers")


def _by_places(node: Node) -> bool:
    """Whether this takes numbers by places that are told, and not by a mask."""
    if "index" not in str(node.target):
        return False
    listed = node.args[1] if isinstance(node.args[1], list | tuple) else [node.args[1]]
    types = [each.meta["val"].dtype for each in listed if isinstance(each, Node)]
    return not {torch.bool, torch.uint8}.intersection(types)


def _as_inputs(graph: GraphModule) -> Values:
    """Make inputs of the tensors that lie in the graph, which then holds none: these tensors, in the inputs' order."""
    places: dict[str, Node] = {}
    tensors: list[Tensor] = []
    last = [node for node in graph.graph.nodes if node.op == "placeholder"][-1]
    for node in list(graph.graph.nodes):
        if node.op != "get_attr":
            continue
        name = str(node.target)
        if name not in places:
            tensor = getattr(graph, name)
            if not isinstance(tensor, Tensor):
                raise ValueError(f"it has a {type(tensor).__name__} in it, where tensors alone can be")
            with graph.graph.inserting_after(last):
                last = places[name] = graph.graph.placeholder(f"fixed_{len(tensors)}")
            last.meta.update(node.meta)
            tensors.append(tensor.detach())
        node.replace_all_uses_with(places[name])
        graph.graph.erase_node(node)
    return tuple(tensors)


def _layout(tensor: Tensor) -> _Layout:
    return tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device


def _zeros(layout: _Layout) -> Tensor:
    size, strides, dtype, device = layout
    room = 1 + sum(max(number - 1, 0) * stride for number, stride in zip(size, strides, strict=True))
    return torch.zeros(room, dtype=dtype, device=device).as_strided(size, strides)


@lru_cache(maxsize=32)  # A process that runs one network under several settings needs a few.
def _kernels(traced: _Traced) -> Callable[..., tuple[Tensor, ...]]:
    """The compiled program: of all inputs and of the tensors that it reads besides, in order.

    Its files lie in a new folder that this user alone may read, until they are loaded.
    """
    import torch._inductor as inductor
    from torch._inductor.utils import fresh_cache

    begun = time.perf_counter()
    examples: list[Any] = [_zeros(layout) for layout in traced.layouts]
    with tempfile.TemporaryDirectory(prefix="gradsweep-") as folder, fresh_cache(dir=folder), torch.no_grad():
        kernels: Any = inductor.compile(traced.graph, examples, options=_OPTIONS)
        kernels(*examples)
    log.info(
        "compiled a program of %d operations in %.0f s",
        len(traced.graph.graph.nodes),
        time.perf_counter() - begun,
    )
    return lambda *given: tuple(kernels(*given))
