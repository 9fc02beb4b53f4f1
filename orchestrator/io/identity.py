"""Content addresses: the hash of a value's canonical JSON."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

from fl_core.base.types import LATER, PLACE, Tensors


def canonical(value: object) -> str:
    """JSON with sorted keys and no spaces; raises `TypeError` for what is neither plain data nor a dataclass.

    Dataclasses become objects, without fields that were added later (`fl_core.base.types.LATER`) and have their
    default, and without places on this machine (`PLACE`).
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain, allow_nan=False)


def content_hash(value: object) -> str:
    """The first 20 hexadecimal digits of the SHA-256 of `canonical(value)`."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:20]


def tensor_hash(*groups: Tensors) -> str:
    """A hash of names, shapes, types and bytes of tensors on the CPU."""
    import torch

    digest = hashlib.sha256()
    for tensors in groups:
        for name, tensor in sorted(tensors.items()):
            digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
            digest.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:20]


def _plain(value: object) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: getattr(value, field.name)
            for field in dataclasses.fields(value)
            if not _left_out(field, getattr(value, field.name))
        }
    raise TypeError(f"{type(value).__name__} has no canonical JSON")


def _left_out(field: dataclasses.Field[Any], value: object) -> bool:
    """Whether a field is no part of an identity: added later and at its default, or a place on this machine."""
    if field.metadata.keys() >= PLACE.keys():
        return True
    made = field.default_factory
    default = field.default if made is dataclasses.MISSING else made()
    return field.metadata.keys() >= LATER.keys() and bool(value == default)
