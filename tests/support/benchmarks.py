"""A benchmark in the test's own process: a new one spends most of its time on imports."""

from __future__ import annotations

import io
import runpy
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout

import pytest
import torch

from tests.support.paths import ROOT

FOLDER = ROOT / "benchmarks"


def benchmark(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `benchmarks/NAME.py` with these arguments to its end; threads, paths and its own modules are put back."""
    threads, known = torch.get_num_threads(), set(sys.modules)
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patched, redirect_stdout(out), redirect_stderr(err):
        patched.syspath_prepend(FOLDER)
        patched.chdir(ROOT)
        patched.setattr(sys, "argv", [f"{name}.py", *arguments])
        try:
            runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
        except SystemExit as ended:
            assert isinstance(ended.code, int)
            code = ended.code
        finally:
            torch.set_num_threads(threads)
            for module in set(sys.modules) - known:
                if str(FOLDER) in str(getattr(sys.modules[module], "__file__", None)):
                    del sys.modules[module]
    return subprocess.CompletedProcess([name, *arguments], code, out.getvalue(), err.getvalue())
