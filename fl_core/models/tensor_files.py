"""Tensors by name from a file: safetensors, PyTorch state dicts, NumPy's `.npz`. Nothing in a file is run.

Sizes, names and types are read and checked before anything is allocated for values.
"""

from __future__ import annotations

import math
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fl_core.base.errors import InputError, first_line

_INSIDE = ("state_dict", "model_state_dict", "model")
"""Where checkpoints of training hold the weights: Lightning's, and the two usual names of those written by hand."""
_KINDS = "fiub"
"""NumPy's kinds of numbers that a tensor can hold: floating, signed, unsigned, boolean."""


def stored_tensors(path: Path, *, where: str) -> dict[str, Tensor]:
    """Tensors by the names that the file has for them, on the CPU.

    A file is `.safetensors`, `.npz`, or else a state dict that `torch.save` wrote. Nothing is unpickled but tensors. A
    dictionary with a `state_dict`, a `model_state_dict` or a `model` in it is taken for that. `where` is the setting
    that names the file, for messages. Raises `InputError` for anything else.
    """
    held: object
    try:
        if path.suffix == ".safetensors":
            held = load_file(path)
        elif path.suffix == ".npz":
            held = _arrays(path)
        else:
            _check_stored(path)
            held = _state_dict(path)
    except FileNotFoundError:
        raise InputError(f"{where}: {path} does not exist.") from None
    except (SafetensorError, OSError) as error:
        raise InputError(f"{where}: cannot read {path}: {first_line(error)}.") from error
    except (
        Exception
    ) as error:  # The libraries raise errors of a dozen types for files that are none of their own.
        raise InputError(
            f"{where}: {path} is no file of tensors (safetensors, .npz, or a state dict that torch.load reads with "
            f"weights_only): {first_line(error)}"
        ) from error
    found = _named(held)
    if not found:
        raise InputError(f"{where}: {path} must hold tensors by name, such as model.state_dict().")
    return found


def _state_dict(path: Path) -> object:
    """What `torch.save` wrote; raises `ValueError` for objects of other classes, which are not made."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # On protocols of pickle: what it holds is what matters.
            return torch.load(path, "cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # PyTorch's own message begins with how to run the code in the file.
        raise ValueError("it is no pickle of tensors alone; save model.state_dict()") from error


def _named(held: object) -> dict[str, Tensor]:
    """The tensors by name in what a file held; {} where it holds anything else."""
    if not isinstance(held, Mapping):
        return {}
    for name in _INSIDE:
        inner = held.get(name)
        if isinstance(inner, Mapping):
            return _named(inner)
    found = {
        name: value for name, value in held.items() if isinstance(name, str) and isinstance(value, Tensor)
    }
    return found if len(found) == len(held) else {}


def _check_stored(path: Path) -> None:
    """Raise `ValueError` for an archive whose entries are compressed.

    `torch.save` stores them, and a small file that is compressed may stand for any amount of memory.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as content:
            for entry in content.infolist():
                if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > path.stat().st_size:
                    raise ValueError(f"its entry {entry.filename} is compressed")


def _arrays(path: Path) -> dict[str, Tensor]:
    """The arrays of an `.npz` file, each read only if its header says as many bytes as there are."""
    found = {}
    with zipfile.ZipFile(path) as content:
        for entry in content.infolist():
            with content.open(entry) as stream:
                shape, dtype = _header(stream)
                size = math.prod(shape) * dtype.itemsize
                if stream.tell() + size != entry.file_size:
                    raise ValueError(f"its array {entry.filename} is not as long as its header says")
                if entry.file_size > 1000 * max(1, entry.compress_size):
                    raise ValueError(f"its array {entry.filename} is compressed more than numbers can be")
                values = np.frombuffer(stream.read(size), dtype=dtype).reshape(shape)
            found[entry.filename.removesuffix(".npy")] = torch.from_numpy(
                values.astype(dtype.newbyteorder("="), copy=True)
            )
    return found


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of the array that comes; raises `ValueError` for objects and for order by columns."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if dtype.kind not in _KINDS or dtype.hasobject:
        raise ValueError(f"it holds an array of {dtype}")
    if fortran and len(shape) > 1:
        raise ValueError("it holds an array in column order; write it with np.ascontiguousarray")
    return shape, dtype
