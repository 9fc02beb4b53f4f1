"""Where jobs run: in this process or on Ray."""

from __future__ import annotations

from orchestrator.execute.execute import (
    Done,
    Executor,
    SerialExecutor,
    Unreachable,
    check_address,
    make_executor,
)
from orchestrator.execute.lifelines import RayLost, await_return
from orchestrator.execute.simulation import PooledSimulator, simulate

__all__ = [
    "await_return",
    "check_address",
    "Done",
    "Executor",
    "make_executor",
    "PooledSimulator",
    "RayLost",
    "SerialExecutor",
    "simulate",
    "Unreachable",
]
