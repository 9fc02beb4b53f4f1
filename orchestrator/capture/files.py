"""Weights and captures on disk: safetensors and JSON, each with a checksum of its content."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

import torch
from pydantic import BaseModel, ConfigDict, create_model
from safetensors import SafetensorError
from safetensors.torch import load, save

from attack_core.priors.patch_mixture import PatchMixture
from fl_core.base.errors import InputError
from fl_core.base.types import ClientUpdate, EarlierUpdate, ModelState, OpenedSum, Tensors, Truth
from fl_core.models.build import initial_state
from fl_core.models.config import ModelConfig
from fl_core.threat.record import RoundRecord
from orchestrator.io.files import (
    CHECKSUM,
    Damaged,
    clearly,
    read_bytes,
    read_json,
    typed,
    write_atomically,
    write_json,
)
from orchestrator.io.identity import tensor_hash

RECORD = "record.json"
"""The file that is written last: its presence says that a capture is whole."""

FILES = ("record.safetensors", "truth.safetensors", "truth.json", RECORD)
"""The files of a capture, in the order in which they are written."""

_AGAIN = "it is computed again"
_TENSORS = ("tensors", "buffers", "hidden")


@dataclass(frozen=True, kw_only=True)
class _Described:
    """What `record.json` holds: all of a record but its tensors and what the settings say."""

    weights: str
    updates: tuple[dict[str, Any], ...]
    earlier: tuple[dict[str, Any], ...]
    aggregate: dict[str, Any] | None
    shares: tuple[float, ...]
    later: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Names:
    """What `truth.json` holds: the name of each image, and whose it is."""

    ids: tuple[str, ...]
    clients: tuple[int, ...]


def save_state(path: Path, state: ModelState) -> None:
    """Write weights."""
    _make_folder(path.parent)
    _save(path, _prefixed("parameter.", state.parameters) | _prefixed("buffer.", state.buffers))


def load_state(path: Path, model: ModelConfig) -> ModelState:
    """The weights of a model; raises `Damaged` where the file is missing or does not hold what was written."""
    like = initial_state(model, torch.Generator().manual_seed(0))
    with _as_damage(path):
        tensors = _load(path)
        wanted = _prefixed("parameter.", like.parameters) | _prefixed("buffer.", like.buffers)
        for name, value in wanted.items():
            if tensors[name].shape != value.shape or tensors[name].dtype != value.dtype:
                raise ValueError(f"{name} does not fit the model")
        # In the model's own order: safetensors sorts names.
        return ModelState(
            parameters={name: tensors[f"parameter.{name}"] for name in like.parameters},
            buffers={name: tensors[f"buffer.{name}"] for name in like.buffers},
        )


def save_prior(path: Path, prior: PatchMixture) -> None:
    """Write a trained prior."""
    _make_folder(path.parent)
    _save(path, {**prior.tensors(), "size": torch.tensor(prior.size)})


def load_prior(path: Path) -> PatchMixture:
    """A trained prior; raises `Damaged` where the file is missing or does not hold what was written."""
    with _as_damage(path):
        tensors = _load(path)
        return PatchMixture(size=int(tensors.pop("size")), **tensors)


def save_capture(path: Path, record: RoundRecord, truth: Truth, *, weights: str, version: int) -> None:
    """Write what was captured at the weights of this hash into the folder `path`."""
    tensors: dict[str, torch.Tensor] = {}
    for i, update in enumerate(record.updates):
        tensors |= _prefixed(f"{i}.tensor.", update.tensors) | _prefixed(f"{i}.buffer.", update.buffers)
    opened = record.aggregate
    if opened is not None:
        tensors |= _prefixed("aggregate.tensor.", opened.tensors)
        tensors |= _prefixed("aggregate.buffer.", opened.buffers)
        tensors |= _prefixed("aggregate.hidden.", opened.hidden)
    for past in record.earlier:
        tensors |= _prefixed(f"earlier.{past.round}.", past.tensors)
    tensors |= _prefixed("published.", record.published or {})
    watched = [update for each in record.later for update in each.updates]
    for i, update in enumerate(watched):
        tensors |= _prefixed(f"later.{i}.tensor.", update.tensors)
        tensors |= _prefixed(f"later.{i}.buffer.", update.buffers)
    _make_folder(path)
    _save(path / "record.safetensors", tensors)
    _save(path / "truth.safetensors", {"images": truth.images, "labels": truth.labels})
    write_json(path / "truth.json", {"ids": list(truth.ids), "clients": list(truth.clients)})
    described: dict[str, object] = {
        "format": version,
        "weights": weights,
        "updates": [_without_tensors(update) for update in record.updates],
        "earlier": [_without_tensors(past) for past in record.earlier],
        "aggregate": None if opened is None else _without_tensors(opened),
        "shares": list(record.shares),
        "later": [_without_tensors(update) for update in watched],
    }
    write_json(path / RECORD, described)


def adopt_capture(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a capture's files as another folder has them; raises `KeyError` where one is missing."""
    contents = [(path / name, files[name]) for name in FILES]
    _make_folder(path)
    for place, content in contents:
        write_atomically(place, content)


def adopt_state(path: Path, content: bytes) -> None:
    """Write weights as another folder has them."""
    _make_folder(path.parent)
    write_atomically(path, content)


def load_record(path: Path, settings: RoundRecord, *, weights: str, version: int) -> RoundRecord:
    """What was captured at the weights of this hash, in the record that the settings give.

    Their `later` holds a record without updates for each of the other rounds that were watched. Raises `Damaged` where
    a file is missing or does not hold what was written.
    """
    with _as_damage(path / RECORD):
        found = read_json(_Described, path / RECORD, version=version, remedy=_AGAIN)
        if found.weights != weights:
            raise ValueError(f"it is of the weights {found.weights}, not of {weights}")
        updates = [_fields(ClientUpdate, plain) for plain in found.updates]
        earlier = [_fields(EarlierUpdate, plain) for plain in found.earlier]
        opened = None if found.aggregate is None else _fields(OpenedSum, found.aggregate)
        watched = [_fields(ClientUpdate, plain) for plain in found.later]
        if len(watched) != len(settings.later):
            raise ValueError(f"it holds {len(watched)} later rounds, not {len(settings.later)}")
    with _as_damage(path / "record.safetensors"):
        tensors = _load(path / "record.safetensors")
    aggregate = None
    if opened is not None:
        aggregate = OpenedSum(
            tensors=_with_prefix(tensors, "aggregate.tensor."),
            buffers=_with_prefix(tensors, "aggregate.buffer."),
            hidden=_with_prefix(tensors, "aggregate.hidden."),
            **opened,
        )
    return dataclasses.replace(
        settings,
        updates=tuple(_update(tensors, f"{i}.", fields) for i, fields in enumerate(updates)),
        earlier=tuple(
            EarlierUpdate(tensors=_with_prefix(tensors, f"earlier.{fields['round']}."), **fields)
            for fields in earlier
        ),
        aggregate=aggregate,
        shares=found.shares,
        published=_with_prefix(tensors, "published.") or None,
        later=tuple(
            dataclasses.replace(each, updates=(_update(tensors, f"later.{i}.", fields),))
            for i, (each, fields) in enumerate(zip(settings.later, watched, strict=True))
        ),
    )


def _update(tensors: Tensors, prefix: str, fields: Mapping[str, Any]) -> ClientUpdate:
    """The update whose tensors have this prefix, and whose other fields are `fields`."""
    return ClientUpdate(
        tensors=_with_prefix(tensors, f"{prefix}tensor."),
        buffers=_with_prefix(tensors, f"{prefix}buffer."),
        **fields,
    )


def load_truth(path: Path) -> Truth:
    """The truth behind a capture; raises `Damaged` where a file is missing or does not hold what was written."""
    with _as_damage(path / "truth.json"):
        names = read_json(_Names, path / "truth.json", remedy=_AGAIN)
    with _as_damage(path / "truth.safetensors"):
        tensors = _load(path / "truth.safetensors")
        images, labels = tensors["images"], tensors["labels"]
        if {len(images), len(labels), len(names.clients)} != {len(names.ids)}:
            raise ValueError(f"{len(images)} images, but truth.json has {len(names.ids)} names")
    return Truth(images=images, labels=labels, ids=names.ids, clients=names.clients)


def _save(path: Path, tensors: Tensors) -> None:
    stored = _apart({name: value.detach().cpu().contiguous() for name, value in tensors.items()})
    write_atomically(path, save(stored, metadata={CHECKSUM: tensor_hash(stored)}))


def _apart(tensors: Tensors) -> dict[str, torch.Tensor]:
    """The tensors, each in memory of its own, as the format asks: gradients may be views of one another."""
    found: dict[str, torch.Tensor] = {}
    used: set[int] = set()
    for name, value in tensors.items():
        place = value.untyped_storage().data_ptr()
        found[name] = value.clone() if place in used else value
        used.add(place)
    return found


def _load(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file; those of earlier versions have no checksum to check."""
    content = read_bytes(path)
    # The library gives them in no fixed order, and random draws for one after the other must not depend on it.
    tensors = dict(sorted(load(content).items()))
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    if header.get("__metadata__", {}).get(CHECKSUM, wanted := tensor_hash(tensors)) != wanted:
        raise ValueError("its checksum differs")
    return tensors


@contextmanager
def _as_damage(path: Path) -> Iterator[None]:
    """What the readers of a file that is not whole run into, as `Damaged`."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError as error:
        raise Damaged.of(path, "it is missing", _AGAIN) from error
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise Damaged.of(path, error, _AGAIN) from error


def _fields(kind: type, content: dict[str, Any]) -> dict[str, Any]:
    """The fields of a dataclass that hold no tensors, from JSON; raises `ValueError` for others."""
    return typed(_described_by(kind), content).model_dump(exclude_unset=True)


@cache
def _described_by(kind: type) -> type[BaseModel]:
    # Where these classes stand, tensors are known to type checkers alone.
    hints = get_type_hints(kind, localns={"Tensor": torch.Tensor})
    fields: dict[str, Any] = {
        field.name: (hints[field.name], ... if field.default is dataclasses.MISSING else field.default)
        for field in dataclasses.fields(kind)
        if field.name not in _TENSORS
    }
    return create_model(kind.__name__, __config__=ConfigDict(extra="forbid"), **fields)


def _without_tensors(value: ClientUpdate | EarlierUpdate | OpenedSum) -> dict[str, Any]:
    """Every field that holds no tensors."""
    names = [field.name for field in dataclasses.fields(value) if field.name not in _TENSORS]
    return {name: getattr(value, name) for name in names}


def _prefixed(prefix: str, tensors: Tensors) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": value for name, value in tensors.items()}


def _with_prefix(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    # safetensors sorts names; the model's own order is restored by whoever pairs them with parameters.
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _make_folder(path: Path) -> None:
    with clearly("write", path):
        path.mkdir(parents=True, exist_ok=True)
