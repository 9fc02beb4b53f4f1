"""Starting weights from a file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fl_core.base.errors import InputError, hint, listed
from fl_core.base.types import PLACE, Config, ModelState
from fl_core.models.tensor_names import named_as, second_names, unsaved, untied

if TYPE_CHECKING:
    from torch import Tensor, nn


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
        from fl_core.models.tensor_files import stored_tensors

        path = Path(self.file)
        if _digest(path, "model.weights") != self.digest:
            raise InputError(f"model.weights: {path} has changed since the sweep began; restore it.")
        return stored_tensors(path, where="model.weights")

    def fill(self, state: ModelState, model: nn.Module, *, free: tuple[str, ...] = ()) -> ModelState:
        """`state` of `model` with the file's values; names that begin with one of `free` may be missing.

        So may buffers that a state dict leaves out, and second names of tied weights. What a wrapper such as
        `DataParallel` put into every name is left out (`named_as`). Raises `InputError` for names that are missing or
        left over, and for other shapes.
        """
        wanted = {**state.parameters, **state.buffers}
        where = f"model.weights: {Path(self.file).name}"
        found = _beside_bottleneck(_unwrapped(self.tensors(), state, free), wanted)
        found = untied(found, second_names(model), where)
        left_out = unsaved(model)
        for name in wanted:
            if name not in found and not name.startswith(free) and not _counts(name) and name not in left_out:
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


def _unwrapped(found: dict[str, Tensor], state: ModelState, free: tuple[str, ...]) -> dict[str, Tensor]:
    """`found` under the network's names, with or without a bottleneck, where a wrapper wrote others."""
    needed = [name for name in state.parameters if not name.startswith(free)]
    for names in (needed, [name.replace(".last.", ".") for name in needed]):
        named, _ = named_as(found, names, state.buffers)
        if named.keys() != found.keys() and len(named) == len(found):
            return named
    return found


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
