"""The types that every package shares: signals, states, updates, truth."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from fl_core.base.errors import InputError
from fl_core.base.field_types import check_types, field_and_value

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Tensors = Mapping[str, "Tensor"]


Protection = Literal["encrypted", "masked"]
"""What keeps a single update from the server: homomorphic encryption, whose key holder can open it, or masks."""


Signal = Literal["gradients", "one_step_update", "local_update", "agg_update"]


SIGNALS: tuple[Signal, ...] = get_args(Signal)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Base of every dataclass that a YAML file can spell: wrong keys and wrong types are refused.

    Made in Python it refuses values of another type than its fields say, as `InputError`, before its own rules are
    asked. A list becomes the tuple that a field wants, a number of NumPy's Python's own.
    """

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid", "strict": True}

    def __init_subclass__(cls, **keywords: object) -> None:
        super().__init_subclass__(**keywords)
        rules = vars(cls).get("__post_init__")
        if rules is None:
            return

        @functools.wraps(rules)
        def checked(self: Config) -> None:
            check_types(self)
            rules(self)

        cls.__post_init__ = checked  # type: ignore[method-assign]  # what a class checks comes after its types

    def __post_init__(self) -> None:
        check_types(self)


LATER: Mapping[str, bool] = {"later": True}
"""The metadata of a field that was added after results were written: at its default it is no part of an identity.

So a setting can be added, and older results folders still resume.
"""


@dataclass(frozen=True)
class InUnits:
    """What a setting is counted or measured in: `train: Annotated[int, InUnits("images")] = 160`.

    Docs show it; nothing computes with it. A setting without one is a plain number, a switch or a name.
    """

    name: str


PLACE: Mapping[str, bool] = {"place": True}
"""The metadata of a field that says where something lies on this machine: it is no part of an identity."""


def require(holds: bool, owner: object, name: str, rule: str) -> None:
    """Raise `InputError` with the field's name, its value and the rule, unless the rule holds."""
    if not holds:
        raise InputError(f"{field_and_value(owner, name)}: must be {rule}.")


@dataclass(frozen=True, kw_only=True)
class ModelState:
    """Everything that a model's forward pass reads: parameters and buffers (BatchNorm statistics) by name."""

    parameters: Tensors
    buffers: Tensors = field(default_factory=dict)

    def detached(self) -> ModelState:
        """A copy that shares no memory and no graph with this one."""
        return ModelState(
            parameters={name: value.detach().clone() for name, value in self.parameters.items()},
            buffers={name: value.detach().clone() for name, value in self.buffers.items()},
        )

    def with_own_buffers(self) -> ModelState:
        """The same parameters with copies of the buffers, for a forward pass that would change them."""
        return ModelState(
            parameters=self.parameters, buffers={name: value.clone() for name, value in self.buffers.items()}
        )

    def same_numbers(self, other: ModelState) -> bool:
        """Whether the other state has the same tensors, number by number."""
        import torch

        return all(
            ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
            for ours, theirs in ((self.parameters, other.parameters), (self.buffers, other.buffers))
        )

    def to(self, device: torch.device) -> ModelState:
        """The same state with every tensor on `device`."""
        return ModelState(
            parameters={name: value.to(device) for name, value in self.parameters.items()},
            buffers={name: value.to(device) for name, value in self.buffers.items()},
        )


@dataclass(frozen=True, kw_only=True)
class ClientUpdate:
    """What one client hands to the server.

    `tensors` holds gradients (signal `gradients`) or weight deltas, new minus old (every other signal), by
    parameter name. `buffers` holds the change of the buffers, averaged like the weights. `examples` is the
    number of images behind it, `steps` the number of local optimizer steps, `lr` and `momentum` those steps'.
    `clip_factor` in [0, 1] is what a clipping defense scaled it by, the mean over examples where each is clipped by
    itself; `not_finite` counts what held NaN or infinity and was clipped to zeros: the update, or single examples'
    gradients. `noise_to_signal_db` is the energy of a defense's noise over that of what was clipped. All three are the
    client's own knowledge, never observed.
    `bytes_up` is what the client sends, where a defense packs it; None stands for every number as it is.
    """

    client: int
    tensors: Tensors
    buffers: Tensors = field(default_factory=dict)
    examples: int
    steps: int
    lr: float
    momentum: float
    clip_factor: float | None = None
    not_finite: int = 0
    noise_to_signal_db: float | None = None
    bytes_up: int | None = None

    def to(self, device: torch.device) -> ClientUpdate:
        """The same update with every tensor on `device`."""
        return replace(
            self,
            tensors={name: value.to(device) for name, value in self.tensors.items()},
            buffers={name: value.to(device) for name, value in self.buffers.items()},
        )


def clipped_to_zeros(not_finite: int) -> str:
    """What to say where `ClientUpdate.not_finite` adds up to so many."""
    return (
        f"clipped to zeros for holding NaN or infinity: {not_finite} (updates, or gradients of single images)"
    )


@dataclass(frozen=True, kw_only=True)
class OpenedSum:
    """What a secure sum gave away of a round's updates: their weighted mean, and what it cost.

    `shares` holds each update's weight in the mean, in the record's order; they sum to 1, and to less where a mean over
    all that were planned misses some. `bytes_up` is the most that
    one client sent. CPU seconds: `setup_seconds` of all parties for keys, `protect_seconds` the mean of a client,
    `add_seconds` the server's, `reveal_seconds` for opening the sum. `rounding_error` is the largest distance of a
    number of the mean from the mean of the updates before they were rounded. `hidden` masks the numbers that were
    protected, by name, where the rest of every single update went in the clear; empty where all were.
    """

    protection: Protection
    tensors: Tensors
    buffers: Tensors
    shares: tuple[float, ...]
    bytes_up: int
    rounding_error: float
    setup_seconds: float
    protect_seconds: float
    add_seconds: float
    reveal_seconds: float
    hidden: Tensors = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class EarlierUpdate:
    """What the server received of a client in an earlier round: weight deltas after `steps` local steps."""

    round: int
    tensors: Tensors
    steps: int


@dataclass(frozen=True, kw_only=True)
class Truth:
    """The images (N, 3, S, S) in [-1, 1] and labels (N,) behind a signal; only metrics see it.

    `ids` names each image: its file, with `:flip` where augmentation mirrored it. `clients` says whose it is.
    """

    images: Tensor
    labels: Tensor
    ids: tuple[str, ...]
    clients: tuple[int, ...]

    def example_labels(self) -> Tensor:
        """One label (N,) for each image that the clients hold: a mirrored copy is the same image."""
        held: dict[tuple[int, str], int] = {}
        for i, (client, name) in enumerate(zip(self.clients, self.ids, strict=True)):
            held.setdefault((client, name.removesuffix(":flip")), i)
        return self.labels[list(held.values())]

    def of_clients(self, clients: Collection[int]) -> Truth:
        """The part that lies with `clients`."""
        kept = [i for i, client in enumerate(self.clients) if client in clients]
        return Truth(
            images=self.images[kept],
            labels=self.labels[kept],
            ids=tuple(self.ids[i] for i in kept),
            clients=tuple(self.clients[i] for i in kept),
        )
