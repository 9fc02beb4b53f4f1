"""What `make` has pip install: the lock, or with an index of CPU wheels all but PyTorch's CUDA libraries."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.paths import ROOT

LOCK = """numpy==2.0
nvidia-cublas==13 ; sys_platform == 'linux'
cuda-toolkit==13
torch==2.15.0
torchvision==0.29
triton==3
"""


def installed(tmp_path: Path, index: str | None) -> tuple[str, list[str]]:
    """What the script says, and each call of pip: its arguments, its index, and the file that it reads."""
    lock, calls, pip = tmp_path / "lock.txt", tmp_path / "calls", tmp_path / "pip"
    lock.write_text(LOCK)
    pip.write_text(
        '#!/bin/sh\nprintf "%s | %s | " "$*" "${PIP_INDEX_URL:-}" >>CALLS\n'
        'for last; do :; done\ntr "\\n" "," <"$last" >>CALLS\necho >>CALLS\n'.replace("CALLS", str(calls))
    )
    pip.chmod(0o755)
    environment = {
        key: value for key, value in os.environ.items() if key not in ("TORCH_INDEX_URL", "PIP_INDEX_URL")
    }
    environment |= {"PIP": str(pip)} | ({"TORCH_INDEX_URL": index} if index else {})
    done = subprocess.run(
        [ROOT / "requirements" / "install.sh", lock],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout, calls.read_text().splitlines()


def test_without_an_index_the_whole_lock_is_installed(tmp_path: Path) -> None:
    said, calls = installed(tmp_path, None)
    (call,) = calls
    assert call.startswith("install -r ")
    assert "triton" in call
    assert "TORCH_INDEX_URL" in said or "2 GB" in said


def test_an_index_of_cpu_wheels_leaves_out_the_cuda_libraries(tmp_path: Path) -> None:
    said, (torch, rest) = installed(tmp_path, "https://user:secret@wheels.example/cpu")
    arguments, index, wanted = torch.split(" | ")
    assert wanted == "torch==2.15.0,torchvision==0.29,"
    assert index == "https://user:secret@wheels.example/cpu"
    assert "secret" not in arguments + said, "other users see a command's words"
    assert rest.endswith(" |  | numpy==2.0,")


@pytest.mark.parametrize("lock", ["run", "dev"])
def test_the_locks_name_what_is_left_out(lock: str) -> None:
    names = [
        line.partition("==")[0] for line in (ROOT / "requirements" / f"{lock}.txt").read_text().splitlines()
    ]
    assert {"torch", "torchvision", "triton"} <= set(names)
    assert any(name.startswith("nvidia-") for name in names)
