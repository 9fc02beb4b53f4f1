"""A stand-in for CUDA graphs: a program's operations are written down once and done again on tensors that stay.

As there, the host's decisions are those of the recording, inputs are copied into tensors whose place is fixed, and
whatever else the program reads is read where it was. A program that reads a number from a tensor is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from attack_core.base.programs.program import Program, Values
from attack_core.base.programs.recorded import Replay

_TO_THE_HOST = ("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "unique", "masked_select")
"""Operators that wait for a device, by what they give: numbers, or tensors whose shape the numbers decide."""
_FROM_THE_HOST = ("lift_fresh", "lift_fresh_copy")
"""Operators that put numbers of Python's on a device."""


class ReadsANumber(AssertionError):
    """The program would make a GPU wait."""


class NoWaiting(TorchDispatchMode):
    """Refuses operators that wait for a device, and tensors that are made of Python's numbers."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in (*_TO_THE_HOST, *_FROM_THE_HOST):
            raise ReadsANumber(f"{func} in a program that is recorded")
        if name.startswith("index") and any(_is_mask(each) for each in args[1:2]):
            raise ReadsANumber(f"{func} by a mask in a program that is recorded")
        return func(*args, **(kwargs or {}))


def _is_mask(indices: Any) -> bool:
    listed = indices if isinstance(indices, list | tuple) else [indices]
    return any(isinstance(each, torch.Tensor) and each.dtype in (torch.bool, torch.uint8) for each in listed)


def recorded(program: Program, inputs: Values) -> Replay:
    """See `attack_core.base.programs.recorded.Record`."""
    held = tuple(each.detach().clone() for each in inputs)
    with NoWaiting():
        graph = make_fx(lambda *given: program(*given))(*held)

    def replay(new: Values) -> Values:
        for there, value in zip(held, new, strict=True):
            there.copy_(value)
        with torch.no_grad():
            return tuple(each.clone() for each in graph(*held))

    return replay


@dataclass
class Recorder:
    """Records, and keeps what it recorded and how many rows each replay had."""

    programs: list[Program] = field(default_factory=list)
    replays: list[int] = field(default_factory=list)

    def __call__(self, program: Program, inputs: Values) -> Replay:
        self.programs.append(program)
        replay = recorded(program, inputs)

        def counted(new: Values) -> Values:
            self.replays.append(len(new[0]))
            return replay(new)

        return counted
