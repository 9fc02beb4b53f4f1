"""What a process does with the memory that it frees."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import torch
from fl_core.base.device import keep_freed_pages

if sys.argv[1] == "keep":
    assert keep_freed_pages()
total = 0.0
for number in range(20):
    if number == 10:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    total += float(torch.full((1 << 24,), float(number)).sum())
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, total)
"""
"""Twenty tensors of 64 MiB, one after the other: pages that were new for the last ten, and a sum.

The heap grows for the first two to five, as small blocks come to lie between them: how many depends on the environment.
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are glibc's")
def test_freed_pages_are_used_again_and_numbers_stay() -> None:
    """64 MiB are 16,384 pages of 4 KiB, or 32 of 2 MiB: ten tensors need them anew only where they were given back."""
    given, kept = (
        subprocess.run(
            [sys.executable, "-c", PROGRAM, way], check=True, capture_output=True, text=True
        ).stdout.split()
        for way in ("give", "keep")
    )
    assert int(kept[0]) * 10 < int(given[0])
    assert kept[1] == given[1]
