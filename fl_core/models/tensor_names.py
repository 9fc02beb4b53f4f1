"""Names of tensors as wrapped modules write them, brought to those of the network."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, TypeVar

from fl_core.base.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

WRAPPERS = {
    "module": "DataParallel or DistributedDataParallel",
    "_orig_mod": "torch.compile",
    "_module": "Opacus",
}
"""What wrappers of a module put into the names of its tensors."""

Value = TypeVar("Value")


def named_as(
    tensors: Mapping[str, Value], parameters: Collection[str], buffers: Collection[str] = ()
) -> tuple[dict[str, Value], str]:
    """`tensors` under the network's own names, and in a sentence what was done; empty where the names fit.

    Parts of names that wrappers put there are left out, on both sides, and so is one prefix before every name, such as
    the attribute that holds the network in a LightningModule; what does not have the prefix is left out with it. Names
    that fit in no such way stay as they are.
    """
    wanted = [*parameters, *buffers]
    if tensors.keys() <= set(wanted):
        return dict(tensors), ""
    own = {plain(name): name for name in wanted}
    held = {plain(name): name for name in tensors}
    if len(own) < len(wanted) or len(held) < len(tensors):
        return dict(tensors), ""
    needed = [plain(name) for name in parameters]
    prefix = next(
        (each for each in _prefixes(needed, held) if all(each + name in held for name in needed)), None
    )
    if prefix is None or not needed:
        return dict(tensors), ""
    found = {own[name]: tensors[held[prefix + name]] for name in own if prefix + name in held}
    taken = {held[prefix + name] for name in own if prefix + name in held}
    left = [name for name in tensors if name not in taken]
    if not prefix:
        # What the network lacks is not left out in silence: the caller refuses it.
        found |= {name: tensors[name] for name in left}
        left = []
    return found, _sentence([*tensors, *wanted], prefix, left)


def second_names(model: nn.Module) -> dict[str, str]:
    """The names under which a network holds a tensor once more, such as tied weights, and the first name of each."""
    first: dict[int, str] = {}
    found = {}
    for name, value in [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]:
        if first.setdefault(id(value), name) != name:
            found[name] = first[id(value)]
    return found


def untied(tensors: Mapping[str, Tensor], second: Mapping[str, str], where: str) -> dict[str, Tensor]:
    """`tensors` with each tensor under its first name alone, whichever of its names (`second_names`) are there.

    Raises `InputError`, which begins with `where`, for one whose values differ under two names.
    """
    import torch

    found = dict(tensors)
    for name, first in second.items():
        if name not in found:
            continue
        value = found.pop(name)
        kept = found.setdefault(first, value)
        if kept.shape != value.shape or not torch.equal(kept, value):
            raise InputError(
                f"{where}: {name!r} and {first!r} are one tensor in the network, and differ here."
            )
    return found


def unsaved(model: nn.Module) -> set[str]:
    """The names of buffers that the network's state dict leaves out (`persistent=False`)."""
    return {name for name, _ in model.named_buffers()} - model.state_dict().keys()


def plain(name: str) -> str:
    """A name without the parts that wrappers put there."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _prefixes(needed: list[str], held: Mapping[str, str]) -> list[str]:
    """No prefix, then those before what ends as the first needed name does."""
    if not needed:
        return [""]
    ends = [name.removesuffix(needed[0]) for name in held if name.endswith(f".{needed[0]}")]
    return ["", *ends]


def _sentence(names: list[str], prefix: str, left: list[str]) -> str:
    parts = {part for name in names for part in name.split(".")}
    taken = [f"{part!r} ({why})" for part, why in WRAPPERS.items() if part in parts]
    if prefix:
        taken.append(f"{prefix!r} before every name")
    rest = f"; not of the network and left out: {left[0]!r}" if left else ""
    more = f" and {len(left) - 1} more" if len(left) > 1 else ""
    return f"names of tensors are read without {' and '.join(taken)}{rest}{more}"
