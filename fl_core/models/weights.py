"""Weights from a file: safetensors, or a state dict of PyTorch that is read without running code."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fl_core.base.errors import InputError, first_line, hint, listed
from fl_core.base.types import PLACE, Config, ModelState

_PARALLEL = "module."
"""What `DataParallel` puts before every name."""


@dataclass(frozen=True, kw_only=True)
class WeightsFile(Config):
    """A file of weights: where it lies, and the SHA-256 of its bytes, by which a changed file is noticed."""

    file: str = field(metadata=PLACE)
    digest: str

    @classmethod
    def read(cls, name: str, folder: Path, *, where: str) -> WeightsFile:
        """The file `name`; a relative path is one in `folder`. Raises `InputError` where it cannot be read."""
        path = (folder / Path(name).expanduser()).resolve()
        return cls(file=str(path), digest=_digest(path, where))

    def tensors(self) -> dict[str, Tensor]:
        """What the file holds, by name, on the CPU.

        Raises `InputError` for a file that is missing, that has changed, or that holds no named tensors.
        """
        path = Path(self.file)
        if _digest(path, "model.weights") != self.digest:
            raise InputError(f"model.weights: {path} has changed since the sweep began; restore it.")
        return read_tensors(path, where="model.weights")

    def fill(self, state: ModelState, *, free: str | None = None) -> ModelState:
        """`state` with the file's values; names that begin with `free` may be missing.

        Raises `InputError` for names that are missing or left over, and for other shapes.
        """
        wanted = {**state.parameters, **state.buffers}
        found = _beside_bottleneck(self.tensors(), wanted)
        where = f"model.weights: {Path(self.file).name}"
        for name in wanted:
            if name not in found and not (free and name.startswith(free)) and not _counts(name):
                raise InputError(
                    f"{where} lacks {name!r}.{hint(name, found)} It holds {listed(sorted(found))}."
                )
        for name, value in found.items():
            if name not in wanted:
                raise InputError(
                    f"{where} holds {name!r}, which the network lacks.{hint(name, wanted)} The network has "
                    f"{listed(wanted)}."
                )
            if value.shape != wanted[name].shape:
                raise InputError(
                    f"{where}: {name!r} has shape {tuple(value.shape)}; the network's is {tuple(wanted[name].shape)}."
                )
        return ModelState(
            parameters={name: _like(found, name, value) for name, value in state.parameters.items()},
            buffers={name: _like(found, name, value) for name, value in state.buffers.items()},
        )


def read_tensors(path: Path, *, where: str) -> dict[str, Tensor]:
    """Tensors by name from a safetensors file, or from a state dict in a file of `torch.save`.

    Nothing is unpickled but tensors. A dictionary with a `state_dict` in it is taken for that; `module.` before every
    name, as `DataParallel` writes it, is left out. Raises `InputError` for anything else.
    """
    try:
        held = (
            load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
        )
    except FileNotFoundError:
        raise InputError(f"{where}: {path} does not exist.") from None
    except (SafetensorError, OSError) as error:
        raise InputError(f"{where}: cannot read {path}: {first_line(error)}.") from error
    except (
        Exception
    ) as error:  # The library raises errors of a dozen types for files that are none of its own.
        raise InputError(
            f"{where}: {path} is neither safetensors nor a state dict that torch.load reads with weights_only: "
            f"{first_line(error)}"
        ) from error
    if isinstance(held, Mapping) and isinstance(held.get("state_dict"), Mapping):
        held = held["state_dict"]
    named = isinstance(held, Mapping) and all(isinstance(name, str) for name in held)
    if not named or not held or not all(isinstance(value, Tensor) for value in held.values()):
        raise InputError(f"{where}: {path} must hold tensors by name, such as model.state_dict().")
    if all(name.startswith(_PARALLEL) for name in held):
        held = {name.removeprefix(_PARALLEL): value for name, value in held.items()}
    return dict(held)


def _beside_bottleneck(found: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`found`, where a layer behind a bottleneck (`fc.last`) has the name that it had without one (`fc`)."""
    names = {name.replace(".last.", "."): name for name in wanted if name not in found and ".last." in name}
    return {names.get(name, name): value for name, value in found.items()}


def _counts(name: str) -> bool:
    """Whether a buffer counts batches, which nothing depends on and older files lack."""
    return name.rpartition(".")[2] == "num_batches_tracked"


def _like(found: Mapping[str, Tensor], name: str, value: Tensor) -> Tensor:
    return found[name].detach().to(value) if name in found else value


def _digest(path: Path, where: str) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        near = hint(path.name, [each.name for each in path.parent.glob("*")] if path.parent.is_dir() else [])
        raise InputError(f"{where}: {path} does not exist.{near}") from None
    except OSError as error:
        raise InputError(f"{where}: cannot read {path}: {error.strerror or error}.") from error
