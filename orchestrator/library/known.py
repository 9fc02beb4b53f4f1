"""What an attacker knows besides the numbers that a client sent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from defenses.chain import AnyDefense
from fl_core.base.errors import InputError


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

        def whole(own: int | None, name: str) -> int | None:
            return own if own is not None or name not in facts else int(facts[name])

        return replace(
            self,
            examples=whole(self.examples, "examples"),
            batch_size=whole(self.batch_size, "batch_size"),
            steps=whole(self.steps, "steps"),
            lr=facts.get("lr") if self.lr is None else self.lr,
            momentum=self.momentum or facts.get("momentum", 0.0),
        )

    def __post_init__(self) -> None:
        for name in ("examples", "batch_size", "steps"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise InputError(f"Known.{name} = {value!r}: must be a whole number of at least 1, or None.")
        if self.lr is not None and not 0 < self.lr < math.inf:
            raise InputError(f"Known.lr = {self.lr!r}: must be a finite number above 0, or None.")
        if not 0 <= self.momentum < 1:
            raise InputError(f"Known.momentum = {self.momentum!r}: must be in [0, 1).")
        if self.labels is not None and self.examples is not None and len(self.labels) != self.examples:
            raise InputError(f"Known.labels has {len(self.labels)} classes for {self.examples} examples.")
