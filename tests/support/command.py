"""The command line in this process, and what a refusal looks like."""

from __future__ import annotations

import io
import subprocess
from contextlib import redirect_stderr, redirect_stdout

import pytest

from orchestrator.cli.main import execute


def gradsweep(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command line in this process, with what it printed."""
    command = [str(argument) for argument in arguments]
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patched, redirect_stdout(out), redirect_stderr(err):
        for name, value in {"COLUMNS": "120", **environment}.items():
            patched.setenv(name, value)
        code = execute(command)
    return subprocess.CompletedProcess(command, code, out.getvalue(), err.getvalue())


def refused(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    """Exit code 2, one line on stderr that holds `parts`, no traceback."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    for part in parts:
        assert part in lines[0]
