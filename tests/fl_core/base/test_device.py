"""What a process does with the memory that it frees, and how it multiplies."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch

from fl_core.base.device import precision_of, set_precision

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
    """64 MiB are 16,384 pages of 4 KiB, or 32 of 2 MiB: ten tensors need them anew only where they were given back.

    In a process of three the heap grows once more for two of the ten, as small blocks have come to lie between them.
    """
    given, kept = (
        subprocess.run(
            [sys.executable, "-c", PROGRAM, way], check=True, capture_output=True, text=True
        ).stdout.split()
        for way in ("give", "keep")
    )
    assert int(kept[0]) * 2 < int(given[0])
    assert kept[1] == given[1]


BACK = """
import os
from pathlib import Path
import torch
from fl_core.base.device import give_back_pages, keep_freed_pages

def resident():
    return os.sysconf('SC_PAGESIZE') * int(Path("/proc/self/statm").read_text().split()[1])

assert keep_freed_pages()
large = torch.ones(1 << 26)
behind = [bytearray(1 << 10) for _ in range(1000)]
before = resident()
del large
kept = resident()
assert give_back_pages()
print(before - kept, before - resident())
"""
"""One tensor of 256 MiB with small blocks behind it: bytes that the process held less after freeing, and in the end."""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are glibc's")
def test_what_is_kept_is_given_back_when_asked() -> None:
    done = subprocess.run([sys.executable, "-c", BACK], check=True, capture_output=True, text=True)
    freed, given = map(int, done.stdout.split())
    assert freed < 1 << 20 and given > 250 << 20


def cuda_products() -> list[str]:
    return [torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision]  # type: ignore[attr-defined]


def test_products_on_cuda_are_whole_unless_tf32_is_asked_for() -> None:
    program = "import torch; print(torch.backends.cudnn.conv.fp32_precision)"
    fresh = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert fresh.stdout.strip() == "tf32", "PyTorch's own default, which is why it is set"
    before = cuda_products()
    with precision_of("float32"):
        assert cuda_products() == ["ieee", "ieee"]
        with precision_of("tf32"):
            assert cuda_products() == ["tf32", "tf32"]
        assert cuda_products() == ["ieee", "ieee"]
    assert cuda_products() == before


def test_a_process_keeps_its_precision() -> None:
    with precision_of("tf32"):
        set_precision("float32")
        assert cuda_products() == ["ieee", "ieee"]
