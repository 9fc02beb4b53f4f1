"""The types that every package shares: signals, states, updates, truth."""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from fl_core.base.errors import InputError, hint, listed

Tensors = Mapping[str, Tensor]


Protection = Literal["encrypted", "masked"]
"""What keeps a single update from the server: homomorphic encryption, whose key holder can open it, or masks."""


Signal = Literal["gradients", "one_step_update", "local_update", "agg_update"]


SIGNALS: tuple[Signal, ...] = get_args(Signal)


_SHOWN = 120
"""At most so many characters of a wrong value are repeated."""


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
        raise InputError(f"{_at(owner, name)}: must be {rule}.")


def check_types(config: Config) -> None:
    """Raise `InputError` for the first field that holds a value of another type than its annotation says."""
    kind: Any = type(config)
    for name, wanted in _wanted(kind).items():
        value = getattr(config, name)
        fitted = _fitted(wanted, value)
        if fitted is _UNFIT:
            raise InputError(f"{_at(config, name)}: must be {_words(wanted)}.{_meant(value, wanted)}")
        if fitted is not value:
            object.__setattr__(config, name, fitted)


def _at(owner: object, name: str) -> str:
    """Class, field and value as messages begin with them."""
    value = repr(getattr(owner, name))
    shown = value if len(value) <= _SHOWN else f"{value[:_SHOWN]}..."
    return f"{type(owner).__name__}.{name} = {shown}"


_UNFIT = object()
"""Stands for a value that does not fit."""

_PLAIN: Mapping[type, tuple[str, str]] = {
    bool: ("True or False", "True or False"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("text", "texts"),
    types.NoneType: ("None", "None"),
}
"""What a field of a plain type must be, in words, and what several are."""


@functools.cache
def _wanted(kind: Any) -> dict[str, Any]:
    """The types of a class's fields; none where a name in them cannot be found, as of a class within a function."""
    try:
        hints = get_type_hints(kind)
    except (NameError, AttributeError, TypeError):
        return {}
    return {each.name: hints[each.name] for each in dataclasses.fields(kind)}


def _options(wanted: Any) -> tuple[Any, ...]:
    """The alternatives of a union; anything else is the only one."""
    if get_origin(wanted) in (Union, types.UnionType):
        return tuple(option for each in get_args(wanted) for option in _options(each))
    return (wanted,)


def _fitted(wanted: Any, value: Any) -> Any:
    """`value` as a field of the type `wanted` holds it; `_UNFIT` where it cannot."""
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        value = value.item()
    options = _options(wanted)
    each = (_as(option, value) for option in options)
    found = next((fitted for fitted in each if fitted is not _UNFIT), _UNFIT)
    return value if found is _UNFIT and _does_the_same(value, options) else found


def _as(option: Any, value: Any) -> Any:
    """The same for one alternative; what this does not know by its annotation may hold anything."""
    origin, inside = get_origin(option), get_args(option)
    fits = True
    if option in _PLAIN:
        # A truth value is a whole number to Python, and a whole number does for a real one.
        kinds = (int, float) if option is float else (option,)
        fits = isinstance(value, kinds) and isinstance(value, bool) == (option is bool)
    elif origin is Literal:
        fits = any(type(value) is type(name) and value == name for name in inside)
    elif origin is tuple:
        return _as_tuple(inside, value)
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        fits = isinstance(value, Mapping) and all(
            _fitted(inside[1], each) is not _UNFIT for each in value.values()
        )
    elif dataclasses.is_dataclass(option):
        fits = isinstance(value, option)  # type: ignore[arg-type]  # a class
    return value if fits else _UNFIT


def _as_tuple(inside: tuple[Any, ...], value: Any) -> Any:
    if not isinstance(value, tuple | list):
        return _UNFIT
    wanted = inside[:1] * len(value) if inside[-1:] == (...,) else inside
    if len(wanted) != len(value):
        return _UNFIT
    fitted = tuple(_fitted(kind, each) for kind, each in zip(wanted, value, strict=True))
    same = isinstance(value, tuple) and all(a is b for a, b in zip(fitted, value, strict=True))
    return _UNFIT if _UNFIT in fitted else value if same else fitted


def _does_the_same(value: Any, options: tuple[Any, ...]) -> bool:
    """Whether an object of somebody's own class has every method that the classes wanted here have in common."""
    classes = [option for option in options if dataclasses.is_dataclass(option)]
    if not classes or isinstance(value, type):
        return False
    shared = set.intersection(*(_methods(kind) for kind in classes))
    return bool(shared) and all(callable(getattr(value, name, None)) for name in shared)


def _methods(kind: Any) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_") and callable(getattr(kind, name))}


def _names(wanted: Any) -> list[str]:
    """The names among which a `Literal` lets choose."""
    literals = (get_args(option) for option in _options(wanted) if get_origin(option) is Literal)
    return [name for names in literals for name in names if isinstance(name, str)]


def _classes(wanted: Any) -> list[str]:
    """The classes of which a field may hold an object; those that stand for code of a sweep file are not made here."""
    classes: list[Any] = [option for option in _options(wanted) if dataclasses.is_dataclass(option)]
    return [f"{kind.__name__}(...)" for kind in classes if "settings" not in _wanted(kind)]


def _meant(value: object, wanted: Any) -> str:
    """What was probably meant by a value that does not fit; empty where nothing is near."""
    if isinstance(value, type):
        return f" {value.__name__} is the class; an object of it is {value.__name__}(...)."
    if isinstance(value, str):
        return hint(value, [*_names(wanted), *_classes(wanted)])
    inner = [get_args(option)[0] for option in _options(wanted) if get_origin(option) is tuple]
    single = any(_fitted(kind, value) is not _UNFIT for kind in inner)
    return " Put [ ] around it." if single else ""


def _words(wanted: Any, *, several: bool = False) -> str:
    """What a value of the type `wanted` is, in words, or `several` of them."""
    options = _options(wanted)
    said = []
    if choices := [name for option in options if get_origin(option) is Literal for name in get_args(option)]:
        said.append(f"one of {listed(map(repr, choices))}" if len(choices) > 1 else repr(choices[0]))
    if classes := _classes(wanted):
        said.append(f"one of {listed(classes)}" if len(classes) > 1 else classes[0])
    for option in options:
        origin, inside = get_origin(option), get_args(option)
        if option in _PLAIN:
            said.append(_PLAIN[option][several])
        elif origin is tuple:
            each = [_words(kind, several=True) for kind in inside if kind is not ...]
            count = "" if inside[-1] is ... else f"{len(inside)} "
            said.append(f"a list of {count}{', '.join(dict.fromkeys(each))}")
        elif isinstance(origin, type) and issubclass(origin, Mapping):
            said.append(f"a mapping to {_words(inside[-1], several=True)}")
    return " or ".join(said) or "of another type"


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
