"""Programs compiled by TorchInductor: operations on the same numbers that follow each other become one kernel.

An iteration reads and writes its tensors some eighty times between its convolutions; a kernel that does several
operations in one pass does so less often. Sums are taken in another order, so numbers are the same up to rounding.
"""

from __future__ import annotations

import linecache
import logging
import os
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from attack_core.base.programs.program import Program, Values
from attack_core.base.programs.recorded import Replay, not_recorded, refused
from fl_core.base.device import out_of_memory, products_of_cuda
from fl_core.base.errors import InputError, first_line
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

Kernels = Callable[..., tuple[Tensor, ...]]
"""A compiled program: of its inputs and of the tensors that it reads besides, in order."""


def compile_program(program: Program, inputs: Values) -> Replay:
    """See `Record`. Programs of one process that do the same operations, of other victims for instance, share kernels.

    Whatever the program reads besides its inputs is read where it was, each time.
    """
    if products_are_rounded():
        raise InputError(
            "A program cannot be compiled with products in bfloat16: its kernels would not round them."
        )
    held = tuple(each.detach().clone() for each in inputs)
    with _private_folder() as folder:
        try:
            graph, others = _traced(program, held)
        except Exception as error:
            raise not_recorded("be compiled", error) from error
        fixed = (*held, *others)
        kernels = _kernels(graph, fixed, folder)
    theirs = {each.untyped_storage().data_ptr() for each in fixed}

    def replay(new: Values) -> Values:
        for there, value in zip(held, new, strict=True):
            there.copy_(value)
        with torch.no_grad():
            found = kernels(*fixed)
        return tuple(each.clone() if each.untyped_storage().data_ptr() in theirs else each for each in found)

    _compare(program, replay, inputs)
    return replay


def _compare(program: Program, replay: Replay, inputs: Values) -> None:
    """Raise `InputError` where other inputs show that something of the first ones is in the kernels.

    Numbers that a network reads by NumPy, say, are not seen by the trace. The other inputs are mirrored, and have
    another sign, spread and mean.
    """
    others = tuple(0.1 - 0.5 * each.detach().flip(-1) for each in inputs)
    for found, expected in zip(replay(others), program(*others), strict=True):
        if not torch.isfinite(expected).all():
            continue
        off = torch.linalg.vector_norm(found - expected)
        # A thousandth is far above rounding, and far below what another image makes of such a number.
        if not bool(off <= 1e-3 * torch.linalg.vector_norm(expected) + 1e-12):
            raise refused(
                "be compiled", "it reads numbers of its input in a way that does not show, as by NumPy"
            )


@contextmanager
def _private_folder() -> Iterator[str]:
    """A folder that this user alone may read, for all that is written meanwhile; it is removed at the end.

    The library's own, which it makes when it is imported, has a name that others can guess.
    """
    name, before = "TORCHINDUCTOR_CACHE_DIR", os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    with tempfile.TemporaryDirectory(prefix="gradsweep-") as folder:
        if " " in folder:
            raise InputError(
                f"The temporary folder {tempfile.gettempdir()!r} has a space in its name, which the compiler's command "
                "would break at; let TMPDIR name another one."
            )
        os.environ[name] = folder
        try:
            yield folder
        finally:
            if before is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = before


def _traced(program: Program, held: Values) -> tuple[Graph, Values]:
    """The program's operations, and the tensors that it reads besides its inputs."""
    from torch.fx.experimental.proxy_tensor import make_fx

    with _forgotten_texts():
        module = make_fx(lambda *given: program(*given))(*held)
    _check(module)
    others = _as_inputs(module)
    for node in module.graph.nodes:
        node.meta.clear()
    return module.graph, others


@contextmanager
def _forgotten_texts() -> Iterator[None]:
    """The library keeps the text of every graph for tracebacks; those of this while are forgotten."""
    from torch.fx import graph_module

    texts = graph_module._loader.eval_cache
    known = set(texts)
    try:
        yield
    finally:
        for name in set(texts) - known:
            texts.pop(name, None)
            linecache.cache.pop(name, None)


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
            tensors.append(tensor.detach())
        node.replace_all_uses_with(places[name])
        graph.graph.erase_node(node)
    return tuple(tensors)


def _kernels(graph: Graph, fixed: Values, folder: str) -> Kernels:
    """The compiled graph: what this process has already, or new kernels, whose files lie in the folder meanwhile."""
    key = (
        graph.python_code("self").src,
        tuple((each.shape, each.stride(), each.dtype, each.device) for each in fixed),
        torch.get_num_threads(),
        products_of_cuda(),
    )
    known = _known()
    if key not in known:
        known[key] = _compiled(graph, fixed, folder)
    known.move_to_end(key)
    # A process that runs one network under several settings needs a few.
    while len(known) > 32:
        known.popitem(last=False)
    return known[key]


@lru_cache(maxsize=1)
def _known() -> OrderedDict[Hashable, Kernels]:
    """What this process has compiled, by all that decides it; the one that was not asked for longest is the first."""
    return OrderedDict()


def _compiled(graph: Graph, fixed: Values, folder: str) -> Kernels:
    import torch._inductor as inductor
    from torch._inductor.utils import fresh_cache

    begun = time.perf_counter()
    # The first run loads what has been compiled; a program may write to what it is given.
    examples: list[Any] = [_copied(each) for each in fixed]
    try:
        with _forgotten_texts(), fresh_cache(dir=folder), torch.no_grad():
            kernels: Any = inductor.compile(GraphModule({}, graph), examples, options=_OPTIONS)
            kernels(*examples)
    except Exception as error:
        if out_of_memory(error):
            raise
        raise InputError(
            f"PyTorch cannot compile this attack here: {_reason(error)}; run it without, as by execution.programs: "
            "operations, or mend that and let `gradsweep retry` run the trial again."
        ) from error
    log.info("compiled a program of %d operations in %.0f s", len(graph.nodes), time.perf_counter() - begun)
    return lambda *given: tuple(kernels(*given))


def _copied(tensor: Tensor) -> Tensor:
    """A copy of the same strides, or where numbers share memory the tensor itself, which nothing can write to."""
    copy = tensor.clone()
    return copy if copy.stride() == tensor.stride() else tensor


def _reason(error: Exception) -> str:
    """The line that says what is wrong: of a compiler's output its first error."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if "error:" in line), f"{type(error).__name__}: {first_line(error)}")
