"""What this installation can do."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

import torch
from rich.table import Table

from attack_core.metrics.metrics import load_lpips
from fl_core.base.device import mps_fallback, pick_device
from fl_core.data.kinds.celeba_folder import has_images
from orchestrator.io.provenance import provenance


def table() -> Table:
    """One line for each thing that a sweep may depend on."""
    lpips = load_lpips()
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    celeba = has_images(Path("data"))
    found = Table("what", "here", show_header=False)
    found.add_row("python", platform.python_version())
    found.add_row("versions", str(provenance()["versions"]))
    found.add_row("cores", str(os.cpu_count()))
    found.add_row("cuda", torch.cuda.get_device_name() if torch.cuda.is_available() else "no")
    found.add_row("mps", _mps())
    found.add_row("device for auto", str(pick_device("auto")))
    found.add_row("LPIPS", "yes" if lpips.distance else lpips.reason)
    found.add_row(
        "CelebA under data/", "yes" if celeba else "no: sweeps that name no data folder use synthetic faces"
    )
    found.add_row("free disk here", f"{free:.0f} GB")
    return found


def _mps() -> str:
    """Whether there is an Apple GPU, how much memory it may take, and what would tarnish its results."""
    if not torch.backends.mps.is_available():
        return "no"
    memory = f"yes, up to {torch.mps.recommended_max_memory() / 1e9:.0f} GB of memory"
    return "; ".join(part for part in (memory, mps_fallback()) if part)
