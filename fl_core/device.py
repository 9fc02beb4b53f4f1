"""Choice of the device that tensors live on."""

from __future__ import annotations

import torch

from fl_core.errors import InputError, unknown_name

DEVICES = ("auto", "cpu", "cuda", "mps")


def pick_device(name: str) -> torch.device:
    """The device called `name`; `auto` takes MPS, then CUDA, then the CPU, whichever is there first.

    Raises `InputError` for an unknown name, and for CUDA or MPS where this machine or this PyTorch has none.
    """
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("mps", "cuda", "cpu") if present[kind]))
    if name not in present:
        raise unknown_name("device", name, DEVICES)
    if not present[name]:
        raise InputError(f"Device {name!r} is not available here; use --device auto or --device cpu.")
    return torch.device(name)
