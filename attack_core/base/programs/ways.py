"""The ways in which programs run, by name."""

from __future__ import annotations

import os
import shutil
import sys
from typing import Literal

from attack_core.base.programs.program import Runner, as_it_is
from attack_core.base.programs.recorded import Recorded, RecordingLimits

Programs = Literal["operations", "graphs", "compiled"]
"""How programs run: operation by operation, as CUDA graphs, or compiled."""

GRAPH_LIMITS = RecordingLimits(after=16)
"""When a program becomes a CUDA graph. Not measured: no GPU was at hand."""
COMPILE_LIMITS = RecordingLimits(after=100)
"""When a program is compiled. Compiling takes 10 to 140 s, and only what runs for long is worth that."""


def runner_of(programs: Programs, limits: RecordingLimits | None = None) -> Runner:
    """A runner for the searches of one job. `limits` say when it records; None: `GRAPH_LIMITS` or `COMPILE_LIMITS`."""
    if programs == "graphs":
        from attack_core.base.programs.cuda_graphs import CudaGraphs

        return Recorded(CudaGraphs(), limits or GRAPH_LIMITS)
    if programs == "compiled":
        from attack_core.base.programs.compiled import compile_program

        return Recorded(compile_program, limits or COMPILE_LIMITS)
    return as_it_is


def missing_compiler() -> str | None:
    """The C++ compiler that compiling for the CPU needs and that is not found here; None where there is one.

    The environment's CXX names it, as for PyTorch; otherwise it is g++, on a Mac clang++.
    """
    name = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    return None if shutil.which(name) else name
