"""The command line in processes of their own, which tests may kill.

They are forked from one process that has imported everything; a new interpreter spends four CPU-seconds or more on it.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.support.paths import ROOT

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["orchestrator.cli.main", "orchestrator.cli.sweeps", "orchestrator.cli.experiment"]
)


class Child:
    """A process, with what tests use of `subprocess.Popen`."""

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        """`gradsweep` with these arguments; what it says goes to the file `log`."""
        # Nobody waits for a child that a failing test leaves behind.
        self._process = FORKS.Process(target=_run, args=(list(arguments), log, dict(os.environ)), daemon=True)
        self._process.start()
        self.args = list(arguments)

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        """The exit code, minus the signal's number after one; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code once it has ended; `TimeoutExpired` after so many seconds."""
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return code


def _run(arguments: list[str], log: Path, environment: dict[str, str]) -> None:
    with log.open("wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(environment)
    from orchestrator.cli.start import main

    sys.argv = ["gradsweep", *arguments]
    main(arguments)
