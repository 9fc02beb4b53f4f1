"""Functions of tensors that an attack computes again and again, and how they are run: as they are, or as CUDA graphs.

On a GPU an iteration of a small network is hundreds of operations that take a few microseconds each, and the host needs
longer to start one than the GPU to compute it. A CUDA graph has them all in it and is started at once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from fl_core.base.device import out_of_memory
from fl_core.base.errors import InputError, first_line

if TYPE_CHECKING:
    from torch import Tensor

Values = tuple["Tensor", ...]
"""What goes into a program or comes out of it."""


class Program(Protocol):
    """A function of tensors of fixed shapes that does the same operations each time, and reads no number from them."""

    @property
    def key(self) -> Hashable:
        """What decides the operations; equal for programs that do the same, while one of them is there."""

    def __call__(self, *inputs: Tensor) -> Values:
        """What is computed, without a slope."""


Runner = Callable[[Program, Values], Values]
"""Runs a program on its inputs."""


def as_it_is(program: Program, inputs: Values) -> Values:
    """Operation by operation."""
    return program(*inputs)


@dataclass(frozen=True, kw_only=True)
class GraphLimits:
    """When a program becomes a graph. Speed and memory alone depend on it. Not measured: no GPU was at hand."""

    after: int = 16
    """So many runs come before: recording takes as long as several of them, and restarts that end make new programs."""
    kept: int = 16
    """So many programs are known at a time; the one that has not run for longest is forgotten."""


GRAPH_LIMITS = GraphLimits()
"""The limits in force."""

Replay = Callable[[Values], Values]
"""A recorded program: from inputs of the recorded shapes to outputs that are the caller's to keep."""
Record = Callable[[Program, Values], Replay]
"""Records a program that has run before on inputs of these shapes."""


@dataclass
class _Ran:
    """A program that has run; it is kept, so that its key stays its own."""

    program: Program
    runs: int = 0
    replay: Replay | None = None


class CapturedGraphs:
    """A runner: programs that run often are recorded once and replayed. For the searches of one job, in one thread.

    Raises `InputError` where a program cannot be recorded, since it reads numbers for instance.
    """

    def __init__(self, record: Record | None = None, limits: GraphLimits = GRAPH_LIMITS) -> None:
        self._record = record or _CudaRecorder()
        self._limits = limits
        self._known: OrderedDict[Hashable, _Ran] = OrderedDict()

    def __call__(self, program: Program, inputs: Values) -> Values:
        """See `Runner`."""
        key = program.key, tuple(each.shape for each in inputs)
        known = self._known.setdefault(key, _Ran(program))
        self._known.move_to_end(key)
        if len(self._known) > self._limits.kept:
            self._known.popitem(last=False)
        known.runs += 1
        if known.runs <= self._limits.after:
            return program(*inputs)
        if known.replay is None:
            known.replay = self._record(program, inputs)
        return known.replay(inputs)


class _CudaRecorder:
    """Records programs as CUDA graphs that share their memory: they are replayed one after the other."""

    def __init__(self) -> None:
        import torch

        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, program: Program, inputs: Values) -> Replay:
        """See `Record`; raises `InputError`, or that memory has run out."""
        import torch

        graph, device = torch.cuda.CUDAGraph(), inputs[0].device
        held = tuple(each.detach().clone() for each in inputs)
        before = torch.cuda.current_stream(device)
        try:
            with torch.cuda.device(device), torch.cuda.graph(graph, pool=self._pool):
                outputs = program(*held)
        except Exception as error:
            first = _first(error)
            if out_of_memory(first):
                raise first from None
            raise InputError(
                f"This attack cannot run as a CUDA graph on this network: {first_line(first)}; run it without, as by "
                "execution.captured_graphs: false."
            ) from error
        finally:
            # A recording that failed leaves its own.
            torch.cuda.set_stream(before)

        def replay(new: Values) -> Values:
            for there, value in zip(held, new, strict=True):
                there.copy_(value)
            graph.replay()
            return tuple(each.clone() for each in outputs)

        return replay


def _first(error: BaseException) -> BaseException:
    """The error that came first: ending a recording that failed raises another one."""
    while error.__context__ is not None:
        error = error.__context__
    return error
