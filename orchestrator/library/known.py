"""What an attacker knows besides the numbers that a client sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from defenses.chain import AnyDefense
from fl_core.base.errors import InputError
from orchestrator.library.updates import FACTS, broken_rule

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
