"""The command line in this process, and what a refusal looks like."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable, Sequence
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


def as_main(
    run: Callable[[], object],
    arguments: Sequence[object],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> subprocess.CompletedProcess[str]:
    """What `run`, a script or module with a `main`, does with these arguments as those of this process, to its end.

    `capfd` has to be asked for before `monkeypatch`: the streams that `main` puts in place are taken back first.
    """
    command = [str(argument) for argument in arguments]
    monkeypatch.setattr(sys, "argv", ["command", *command])
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, getattr(sys, name))
    with pytest.raises(SystemExit) as ended:
        run()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    printed = capfd.readouterr()
    assert isinstance(ended.value.code, int)
    return subprocess.CompletedProcess(command, ended.value.code, printed.out, printed.err)


def refused(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    """Exit code 2, one line on stderr that holds `parts`, no traceback."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    for part in parts:
        assert part in lines[0]
