"""The ways in which programs run, by name."""

from __future__ import annotations

import os
import shutil
import subprocess
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


def why_not(programs: Programs, device: str) -> str | None:
    """Why programs cannot run so on this kind of device here, in words; None where they can."""
    if programs == "graphs" and device != "cuda":
        return "CUDA alone has graphs"
    if programs == "compiled" and device == "cpu":
        return no_compiler()
    return None


def no_compiler() -> str | None:
    """Why nothing can be compiled for the CPU here, in words; None where there is a C++ compiler that works.

    The environment's CXX names it, as for PyTorch; otherwise it is g++, on a Mac clang++.
    """
    name = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(name) is None:
        return f"the C++ compiler {name!r} is not found"
    command = [name, "-x", "c++", "-fsyntax-only", "-"]
    done = subprocess.run(command, input=b"#include <cmath>\n", capture_output=True, check=False)
    if done.returncode == 0:
        return None
    said = done.stderr.decode(errors="replace").strip().splitlines()
    return f"the C++ compiler {name!r} does not work: {said[0] if said else done.returncode}"
