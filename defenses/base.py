"""What a defense is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch

from fl_core.threat import Fact
from fl_core.types import ClientUpdate


@dataclass(frozen=True, kw_only=True)
class Privacy:
    """A differential-privacy statement.

    `epsilon` is the total over `rounds` releases, `epsilon_release` that of one, both at `delta`. `unit` says
    whose data is protected and `adjacency` against which change: `zero_out` replaces the unit's contribution
    by zeros (sensitivity C), `replace_one` by another (2C). `sampling_rate` is 1 where no amplification by
    sampling is claimed.
    """

    epsilon: float
    epsilon_release: float
    delta: float
    unit: Literal["client", "example"]
    adjacency: Literal["zero_out", "replace_one"]
    rounds: int
    sampling_rate: float = 1.0


class Defense(Protocol):
    """A mechanism at the client. A defense object is its own config."""

    def on_update(self, update: ClientUpdate, generator: torch.Generator, *, rounds: int) -> ClientUpdate:
        """The update that is released instead, in a federation of `rounds` planned rounds."""

    def facts(self, *, rounds: int) -> tuple[Fact, ...]:
        """What an attacker who knows the defense knows."""

    def privacy(self, *, rounds: int) -> Privacy | None:
        """The privacy statement over `rounds` releases, or None where none can be made."""
