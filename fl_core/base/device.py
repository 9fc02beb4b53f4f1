"""Which device tensors are on, and what it supports."""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from fl_core.base.errors import InputError, unknown_name

if TYPE_CHECKING:
    import torch
    from torch import Tensor

DEVICES = ("auto", "cpu", "cuda", "mps")

CudaPrecision = Literal["float32", "tf32"]
"""How CUDA multiplies float32 tensors: whole numbers, or factors rounded to 10 bits (TF32), which is faster."""

Precision = Literal["float32", "tf32", "bf16"]
"""How float32 tensors are multiplied: as `CudaPrecision` says, or with factors and results in bfloat16."""

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Settings of glibc's `mallopt`, as malloc.h numbers them."""
_KEPT = 2**31 - 1
"""Up to so many free bytes at the heap's end stay with the process: the largest number that `mallopt` takes."""

_OUT_OF_MEMORY = (
    "DefaultCPUAllocator: ",
    "MPS backend out of memory",
    "could not create a primitive",
    "std::bad_alloc",
)
"""What messages hold where nothing more special than a `RuntimeError` is raised: of allocators, and of oneDNN, which
finds no room for a kernel that it makes at run time."""


def check_device(name: str) -> None:
    """Raise `InputError` for a name that is no device's, wherever this is asked."""
    if name not in DEVICES:
        raise unknown_name("device", name, DEVICES)


def pick_device(name: str) -> torch.device:
    """The device called `name`; `auto` takes MPS, then CUDA, then the CPU, whichever is there first.

    Raises `InputError` for an unknown name, and for CUDA or MPS where this machine or this PyTorch has none.
    """
    check_device(name)

    import torch

    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("mps", "cuda", "cpu") if present[kind]))
    if not present[name]:
        raise InputError(f"Device {name!r} is not available here; use --device auto or --device cpu.")
    return torch.device(name)


def prepare_process(threads: int) -> None:
    """What every process that trains or attacks sets: CPU threads, float32 on CUDA, freed memory kept."""
    import torch

    torch.set_num_threads(threads)
    set_precision("float32")
    keep_freed_pages()


def keep_freed_pages() -> bool:
    """From now on this process keeps the memory that it frees, for its next tensors; True where that could be set.

    The C library gives large tensors back to the system as soon as they are freed, and the system clears new pages for
    the next ones: a quarter of the CPU time of training cnn64. Numbers are the same. Up to 2 GiB stay with the process.
    Only glibc (Linux) has the two settings.
    """
    if (library := _glibc()) is None:
        return False
    # No block has a mapping of its own, which would be given back with it.
    return bool(library.mallopt(_MMAP_MAX, 0)) and bool(library.mallopt(_TRIM_THRESHOLD, _KEPT))


def give_back_pages() -> bool:
    """Give the system the freed memory that `keep_freed_pages` has kept so far; True where there was any.

    For when memory has run out: what lies free in this heap serves no kernel that oneDNN makes and no other process.
    """
    library = _glibc()
    return library is not None and bool(library.malloc_trim(0))


def _glibc() -> ctypes.CDLL | None:
    """This process's C library where it is glibc."""
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


def set_precision(precision: CudaPrecision) -> None:
    """From now on this process multiplies float32 tensors on CUDA so.

    PyTorch's own default rounds the factors of convolutions to 10 bits, on GPUs that have TF32.
    """
    for products in _cuda_products():
        products.fp32_precision = "ieee" if precision == "float32" else precision


@contextmanager
def precision_of(precision: Precision) -> Iterator[None]:
    """Products of float32 tensors are of this `precision` while it lasts; afterwards as before.

    `float32` and `tf32` are what `set_precision` sets for the process. `bf16` holds for this thread and the derivatives
    that it asks for; `fl_core.base.products.bf16` says what is rounded.
    """
    from fl_core.base.products.bf16 import products_in_bfloat16

    before = [products.fp32_precision for products in _cuda_products()]
    set_precision("float32" if precision == "bf16" else precision)
    try:
        with products_in_bfloat16(precision == "bf16"):
            yield
    finally:
        for products, value in zip(_cuda_products(), before, strict=True):
            products.fp32_precision = value


def products_of_cuda() -> tuple[str, ...]:
    """How this process multiplies on CUDA, as PyTorch calls it: convolutions, and matrix products."""
    return tuple(products.fp32_precision for products in _cuda_products())


def _cuda_products() -> tuple[Any, Any]:
    """PyTorch's settings of convolutions and matrix products."""
    import torch

    return torch.backends.cudnn.conv, torch.backends.cuda.matmul  # type: ignore[attr-defined]  # set by the library


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """`count` threads on the CPU while it lasts, which rounding follows; afterwards as many as before."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def exact(tensor: Tensor, purpose: str) -> Tensor:
    """`tensor` in float64 on the CPU, for small linear algebra whose `purpose` the log is told once.

    MPS has no float64, so the move comes first. On the CPU nothing is logged.
    """
    if tensor.device.type != "cpu":
        _announce(purpose, tensor.device.type)
    return tensor.cpu().double()


@lru_cache(maxsize=64)
def _announce(purpose: str, device: str) -> None:
    logging.getLogger(__name__).warning("%s runs in float64 on the CPU, not on %s", purpose, device)


def mps_fallback() -> str | None:
    """Why results from MPS may partly come from the CPU: PyTorch was told to move operators there; None elsewhere.

    gradsweep never asks for it. Without it an operator that MPS lacks is an error.
    """
    if os.environ.get("PYTORCH_ENABLE_MPS_FALLBACK", "0") in ("", "0"):
        return None
    return "PYTORCH_ENABLE_MPS_FALLBACK is set: operators that MPS lacks run on the CPU"


def synchronise(device: torch.device) -> None:
    """Wait until all that was handed to `device` is done; a clock read before that measures only the handing over."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def reset_peak(device: torch.device) -> None:
    """Let `peak_mb` begin anew, where it can."""
    import torch

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif device.type == "mps":
        torch.mps.empty_cache()


def peak_mb(device: torch.device) -> float:
    """Peak memory in MB.

    On CUDA what tensors took since `reset_peak`. On MPS what the process holds of the GPU's memory: it keeps what
    it has taken until the next `reset_peak`, or until memory is short. On the CPU the process's largest size so far.
    """
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    if device.type == "mps":
        return torch.mps.driver_allocated_memory() / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def out_of_memory(error: BaseException) -> bool:
    """Whether `error` is how Python, CUDA, MPS or the CPU's allocators say that memory has run out."""
    if not isinstance(error, RuntimeError):
        return isinstance(error, MemoryError)

    import torch  # whose own error is a RuntimeError

    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _OUT_OF_MEMORY)
