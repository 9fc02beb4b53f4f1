"""What a client sent, checked against the network that it is of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from fl_core.base.errors import InputError, hint, listed
from fl_core.base.types import ModelState, Tensors
from fl_core.models.tensor_names import named_as, untied
from orchestrator.library.known import check_fact

Numbers = Mapping[str, "Tensor | np.ndarray | None"] | Sequence["Tensor | np.ndarray | None"]
"""A client's tensors by parameter name, or in the model's order; None for one that was not sent."""


@dataclass(frozen=True, kw_only=True)
class Update:
    """A weight update: new weights minus old ones, by parameter name.

    `before` are the weights that training started from, buffers too, where they are known; `buffers` is the change of
    the buffers. `facts` are what whoever saved it said of the training (`lr`, `momentum`, `steps`, `batch_size`,
    `examples`). `stored` is the coarsest type that the weights had before or after, which rounds the update. `notes`
    say how names and missing buffers were read.
    """

    tensors: Tensors
    before: Tensors = field(default_factory=dict)
    buffers: Tensors = field(default_factory=dict)
    facts: Mapping[str, float] = field(default_factory=dict)
    stored: torch.dtype = torch.float32
    notes: tuple[str, ...] = ()

    @classmethod
    def between(cls, before: Tensors, after: Tensors, **facts: float) -> Update:
        """The update from the state dict `before` to `after`.

        One of them may have names that a wrapper wrote. Raises `InputError` where names or shapes differ otherwise, for
        what is no tensor of real numbers, and for facts that cannot be.
        """
        for name, value in facts.items():
            check_fact(name, value, "Update.between")
        after, note = named_as(after, before.keys())
        _check_pair(before, after)
        # In double precision, which both sides fit into, so that nothing but their own rounding is lost.
        moved = {
            name: (after[name].detach().double() - value.detach().double()).float()
            for name, value in before.items()
        }
        return cls(
            tensors=moved,
            before=dict(before),
            facts=dict(facts),
            stored=coarsest([*before.values(), *after.values()]),
            notes=(note,) if note else (),
        )

    @property
    def coarse(self) -> bool:
        """Whether the weights were stored in fewer bits than float32 has, which rounds the update."""
        return self.stored != torch.float32

    def at(self, state: ModelState, second: Mapping[str, str] | None = None) -> tuple[Update, ModelState]:
        """The update of a network's parameters alone, and the state that it started from.

        `state` is the network's own, which is taken where `before` is not known; `second` are its `second_names`.
        Raises `InputError` where the update is one of another network.
        """
        names, notes = state.parameters, list(self.notes)
        tensors, note = named_as(self.tensors, names, state.buffers)
        before, _ = named_as(self.before, names, state.buffers)
        buffers, _ = named_as(self.buffers, (), state.buffers)
        if note:
            notes.append(note)
        tensors, before = (
            untied(each, second or {}, f"the {what}")
            for each, what in ((tensors, "update"), (before, "weights before training"))
        )
        missing = [name for name in names if name not in tensors]
        if missing:
            raise InputError(
                f"The update lacks {missing[0]!r}, which the model has.{hint(missing[0], tensors)} It holds "
                f"{listed(tensors)}."
            )
        known = {*names, *state.buffers}
        extra = [name for name in tensors if name not in known]
        if extra:
            raise InputError(f"The update holds {extra[0]!r}, which the model lacks.{hint(extra[0], known)}")
        unknown = [name for name in state.buffers if before and name not in before]
        if unknown:
            notes.append(
                f"the weights before training lack the buffer {unknown[0]!r}"
                f"{f' and {len(unknown) - 1} more' if len(unknown) > 1 else ''}: the network's own values are taken"
            )
        moved = {name: tensors[name] for name in tensors if name in state.buffers}
        only = replace(
            self,
            tensors={name: tensors[name] for name in names},
            before=before,
            buffers={**moved, **buffers},
            notes=tuple(notes),
        )
        if not before:
            return only, state
        start = ModelState(
            parameters={name: _fitting(before, name, value) for name, value in names.items()},
            buffers={name: _fitting(before, name, value) for name, value in state.buffers.items()},
        )
        return only, start


def coarsest(values: Sequence[Tensor]) -> torch.dtype:
    """The type of least precision among those of floating-point numbers, at most float32."""
    kinds = [value.dtype for value in values if value.is_floating_point()]
    return max([torch.float32, *kinds], key=lambda kind: torch.finfo(kind).eps)


def _check_pair(before: Tensors, after: Tensors) -> None:
    for name in before:
        if name not in after:
            raise InputError(
                f"The weights after training lack {name!r}, which those before have.{hint(name, after)}"
            )
    for name, value in after.items():
        if name not in before:
            raise InputError(
                f"The weights after training hold {name!r}, which those before lack.{hint(name, before)}"
            )
        if value.shape != before[name].shape:
            raise InputError(
                f"{name!r} has shape {tuple(value.shape)} after training and {tuple(before[name].shape)} before."
            )
        if value.is_floating_point() != before[name].is_floating_point():
            raise InputError(f"{name!r} is {value.dtype} after training and {before[name].dtype} before.")
        for side in (value, before[name]):
            if side.is_complex():
                raise InputError(f"{name!r} is {side.dtype}; must be of real numbers.")


def _fitting(tensors: Tensors, name: str, like: Tensor) -> Tensor:
    value = tensors.get(name)
    if value is None:
        return like
    if value.shape != like.shape:
        raise InputError(
            f"{name!r} has shape {tuple(value.shape)} before training; the model's is {tuple(like.shape)}."
        )
    return value.detach().to(like)


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A client's numbers by parameter name, which of them were not sent, and how names were read, in sentences.

    `sent_as` is the coarsest type that they came in.
    """

    tensors: dict[str, Tensor]
    unsent: tuple[str, ...]
    notes: tuple[str, ...]
    sent_as: torch.dtype


def checked(numbers: Numbers, state: ModelState, what: str) -> Checked:
    """The client's numbers in the model's order, float32 on its device and without a graph; and what was not sent.

    `what` names them in messages. Raises `InputError` for names that are missing or left over, another count or shape,
    values that are no numbers or not finite, and where nothing was sent.
    """
    parameters = state.parameters
    named, note = named_as(_named(numbers, list(parameters), what), parameters)
    for name in parameters:
        if name not in named:
            raise InputError(
                f"{what} lacks {name!r}, which the model has.{hint(name, named)} Give None for what was not sent."
            )
    for name in named:
        if name not in parameters:
            raise InputError(f"{what} holds {name!r}, which the model lacks.{hint(name, parameters)}")
    unsent = [name for name in parameters if named[name] is None]
    if len(unsent) == len(parameters):
        raise InputError(f"{what} holds None for every parameter: nothing was sent.")
    found = {name: _number(named[name], like, name, what) for name, like in parameters.items()}
    if not any(bool(value.any()) for value in found.values()):
        raise InputError(f"{what} holds zeros alone: nothing was sent that an attack could use.")
    kinds = [as_tensor(value) for value in named.values() if value is not None]
    return Checked(
        tensors=found, unsent=tuple(unsent), notes=(note,) if note else (), sent_as=coarsest(kinds)
    )


def _named(numbers: Numbers, names: list[str], what: str) -> Mapping[str, Tensor | np.ndarray | None]:
    if isinstance(numbers, Mapping):
        return numbers
    if not isinstance(numbers, list | tuple):
        raise InputError(
            f"{what} is {type(numbers).__name__}: must be a mapping by parameter name, or a list in the model's order."
        )
    if len(numbers) != len(names):
        raise InputError(f"{what} has {len(numbers)} tensors: the model has {len(names)} parameters.")
    return dict(zip(names, numbers, strict=True))


def as_tensor(value: Tensor | np.ndarray) -> Tensor:
    """A tensor, or the tensor of an array's numbers."""
    return value if isinstance(value, Tensor) else torch.from_numpy(np.ascontiguousarray(value))


def _number(value: object, like: Tensor, name: str, what: str) -> Tensor:
    if value is None:
        return torch.zeros_like(like)
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "fiu":
            raise InputError(f"{what}: {name!r} is an array of {value.dtype}; must be of numbers.")
        value = as_tensor(value)
    if not isinstance(value, Tensor):
        raise InputError(f"{what}: {name!r} is {type(value).__name__}; must be a tensor or an array.")
    if value.shape != like.shape:
        raise InputError(
            f"{what}: {name!r} has shape {tuple(value.shape)}; the model's is {tuple(like.shape)}."
        )
    if value.layout != torch.strided:
        value = value.to_dense()
    if value.is_complex() or value.dtype == torch.bool:
        raise InputError(f"{what}: {name!r} is {value.dtype}; must be of real numbers.")
    # A graph may be attached, as after create_graph=True, or none allowed, as in inference mode: values are copied.
    found = value.detach().to(like, copy=True)
    if not bool(torch.isfinite(found).all()):
        raise InputError(f"{what}: {name!r} holds NaN or infinity.")
    return found
