"""A running process: stopping when told to, progress."""

from __future__ import annotations

from orchestrator.runtime.progress import ConsoleReporter, Reporter
from orchestrator.runtime.stop import EXIT_CODE, Stop, Stopped, farewell
from orchestrator.runtime.terminal import console, outlet

__all__ = [
    "console",
    "ConsoleReporter",
    "EXIT_CODE",
    "farewell",
    "outlet",
    "Reporter",
    "Stop",
    "Stopped",
]
