"""What an attacker knows besides the numbers that a client sent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from defenses.chain import AnyDefense
from fl_core.base.errors import InputError, hint

if TYPE_CHECKING:
    from torch import Tensor

FACTS = ("lr", "momentum", "steps", "batch_size", "examples")
"""What is said of the training behind an update."""

_COUNTS = ("examples", "batch_size", "steps")
"""What is a whole number."""


@dataclass(frozen=True, kw_only=True)
class Known:
    """What the attacker knows of a client's training; None means that it does not know.

    `examples` is the number of images behind the signal, `batch_size` those of one local step, `steps` the number of
    steps. `lr` and `momentum` are the client's optimizer's. `labels` are the images' classes. `defenses` are in force
    and known, in the order in which the client applied them. `public` are pictures (N, C, H, W) with pixels in [0, 1]
    of the same kind: their mean is where an attack starts.
    """

    examples: int | None = None
    batch_size: int | None = None
    steps: int | None = None
    lr: float | None = None
    momentum: float = 0.0
    labels: Sequence[int] | None = None
    defenses: Sequence[AnyDefense] = ()
    public: Tensor | None = field(default=None, repr=False)

    def filled(self, facts: Mapping[str, float]) -> Known:
        """The same with what the `facts` of an update say where nothing else is known."""
        return self.changed(
            {name: value for name, value in facts.items() if name in FACTS and not getattr(self, name)}
        )

    def changed(self, facts: Mapping[str, float]) -> Known:
        """The same with these facts of the training in the place of its own."""
        values: dict[str, Any] = {
            name: int(value) if name in _COUNTS else value for name, value in facts.items()
        }
        return replace(self, **values)

    def __post_init__(self) -> None:
        for name in _COUNTS:
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or broken_rule(name, value)):
                raise InputError(f"Known.{name} = {value!r}: must be a whole number of at least 1, or None.")
        if self.lr is not None and (rule := broken_rule("lr", self.lr)):
            raise InputError(f"Known.lr = {self.lr!r}: must be {rule}, or None.")
        if rule := broken_rule("momentum", self.momentum):
            raise InputError(f"Known.momentum = {self.momentum!r}: must be {rule}.")
        if self.labels is not None and self.examples is not None and len(self.labels) != self.examples:
            raise InputError(f"Known.labels has {len(self.labels)} classes for {self.examples} examples.")


def check_fact(name: str, value: object, where: str) -> float:
    """A fact of the training; raises `InputError` for an unknown name and for a value that it cannot have."""
    if name not in FACTS:
        raise InputError(f"{where}: unknown fact {name!r}.{hint(name, FACTS)} Known: {', '.join(FACTS)}.")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{where}: {name} = {value!r}: must be a number.")
    rule = broken_rule(name, value)
    if rule:
        raise InputError(f"{where}: {name} = {value!r}: must be {rule}.")
    return float(value)


def broken_rule(name: str, value: float) -> str:
    """What a fact of the training must be, where `value` is not that; empty where it is."""
    match name:
        case "lr":
            rule, holds = "a finite number above 0", 0 < value < math.inf
        case "momentum":
            rule, holds = "in [0, 1)", 0 <= value < 1
        case _:
            rule, holds = (
                "a whole number of at least 1",
                math.isfinite(value) and value >= 1 and value == int(value),
            )
    return "" if holds else rule
