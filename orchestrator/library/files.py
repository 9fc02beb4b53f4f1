"""What a client sent, in files: weights before and after, an update with its facts, a gradient."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fl_core.base.errors import InputError, first_line
from fl_core.models.tensor_files import stored_tensors
from fl_core.models.tensor_names import named_as, second_names, untied
from orchestrator.library.known import check_fact
from orchestrator.library.updates import Update

_FACTS = "gradsweep_facts"
_BEFORE, _AFTER = "before.", "after."


def save_update(
    path: str | Path, before: Mapping[str, Tensor], after: Mapping[str, Tensor], **facts: float
) -> None:
    """Write the state dicts before and after a client's training to one safetensors file.

    `facts` may be `lr`, `momentum`, `steps`, `batch_size`, `examples`. Raises `InputError` for others, and where the
    two differ in names or shapes.
    """
    for name, value in facts.items():
        check_fact(name, value, "save_update")
    Update.between(before, after)
    tensors = {f"{_BEFORE}{name}": _stored(value) for name, value in before.items()}
    tensors |= {f"{_AFTER}{name}": _stored(value) for name, value in after.items()}
    try:
        save_file(tensors, Path(path), metadata={_FACTS: json.dumps(facts)})
    except (OSError, SafetensorError) as error:
        raise InputError(f"Cannot write {path}: {first_line(error)}.") from error


def load_update(
    path: str | Path | None = None,
    *,
    before: str | Path | None = None,
    after: str | Path | None = None,
    model: nn.Module | None = None,
) -> Update:
    """The update in a file of `save_update`, or between two files of weights.

    `before` and `after` are safetensors, PyTorch state dicts, or `.npz` files; arrays without names (`arr_0`, ..., as
    Flower's lists of arrays are written) are those of `model.state_dict()`, in its order. Nothing is unpickled. Raises
    `InputError` with the file for what cannot be read, and where the two differ in names or shapes.
    """
    if path is not None:
        if before is not None or after is not None:
            raise InputError("load_update: give one file of save_update, or before and after.")
        return _saved(Path(path))
    if before is None or after is None:
        raise InputError("load_update: give both before and after, or one file of save_update.")
    names = None if model is None else list(model.state_dict())
    return Update.between(_weights(Path(before), names, "before"), _weights(Path(after), names, "after"))


def load_weights(path: str | Path, model: nn.Module) -> None:
    """Put the weights in a file into `model`; raises `InputError` for names and shapes that differ."""
    tensors = _weights(Path(path), list(model.state_dict()), "weights")
    named, _ = named_as(
        tensors,
        [name for name, _ in model.named_parameters()],
        [name for name, _ in model.named_buffers()],
    )
    second = second_names(model)
    named = untied(named, second, f"weights: {path}")
    named |= {name: named[first] for name, first in second.items() if first in named}
    try:
        model.load_state_dict(named)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"weights: {path} does not fit the model: {reason}") from error


def load_gradient(path: str | Path, *, model: nn.Module) -> dict[str, Tensor]:
    """A gradient from a file, by parameter name; arrays without names are in the model's order of parameters."""
    return _weights(Path(path), [name for name, _ in model.named_parameters()], "gradients")


def _saved(path: Path) -> Update:
    try:
        with safe_open(path, "pt") as content:
            text = (content.metadata() or {}).get(_FACTS, "{}")
            tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118 - no mapping
    except FileNotFoundError:
        raise InputError(f"update: {path} does not exist.") from None
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"update: {path} is no file of gradsweep.save_update: {first_line(error)}; name the weights with before "
            "and after."
        ) from error
    sides = [
        {name.removeprefix(side): value for name, value in tensors.items() if name.startswith(side)}
        for side in (_BEFORE, _AFTER)
    ]
    if len(sides[0]) + len(sides[1]) != len(tensors) or not all(sides):
        raise InputError(
            f"update: {path} is no file of gradsweep.save_update; name the weights with before and after."
        )
    return Update.between(sides[0], sides[1], **_facts(text, path))


def _facts(text: str, path: Path) -> dict[str, float]:
    try:
        facts = json.loads(text)
    except ValueError as error:
        raise InputError(f"update: the facts in {path} cannot be read: {first_line(error)}.") from error
    if not isinstance(facts, dict):
        raise InputError(f"update: the facts in {path} cannot be read: they are no mapping.")
    return {name: check_fact(name, value, f"update: the facts in {path}") for name, value in facts.items()}


def _weights(path: Path, names: list[str] | None, where: str) -> dict[str, Tensor]:
    tensors = stored_tensors(path, where=where)
    numbered = [f"arr_{i}" for i in range(len(tensors))]
    if set(numbered) != tensors.keys():
        return tensors
    if names is None:
        raise InputError(
            f"{where}: {path} holds arrays without names; the model says which they are: give model."
        )
    if len(names) != len(tensors):
        raise InputError(f"{where}: {path} holds {len(tensors)} arrays: the model has {len(names)}.")
    return {name: tensors[number] for name, number in zip(names, numbered, strict=True)}


def _stored(value: Tensor) -> Tensor:
    """A copy that shares no memory, as tied weights do: the format has no such thing."""
    return torch.clone(value.detach().cpu(), memory_format=torch.contiguous_format)
