"""What a sweep file says of the federation: clients, who takes part in a round, how they train and share the images."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

from fl_core.base.types import Config, InUnits, require
from fl_core.data.partition import IID, Partition
from fl_core.federation.client import LocalTraining

MOST_CLIENTS = 10_000_000
"""More clients than this are a slip of the keyboard: a list of them would fill the memory."""


@dataclass(frozen=True, kw_only=True)
class FederationConfig(Config):
    """Clients, the fraction of them that takes part in a round, planned rounds, local training, partition.

    With `participation` `fixed` the fraction of the clients, rounded down, is drawn for each round. With `poisson` each
    client takes part by a coin of its own that falls so with probability `fraction`: how many do is random, and in a
    round of none the weights stay as they are, but for what a defense adds.
    `flip` mirrors each training image with probability 1/2, anew every epoch. A round's participants are reduced
    in chunks of `chunk` clients, which may run in different processes. It changes rounding, and so belongs here
    and not to the machine; small chunks spread over more processes, large ones send fewer partial sums.
    """

    clients: Annotated[int, InUnits("clients")] = 10
    """How many clients there are."""
    fraction: Annotated[float, InUnits("share")] = 0.5
    """Share of them that takes part in a round."""
    participation: Literal["fixed", "poisson"] = "fixed"
    """Whether that share is exact, or each client's own coin."""
    rounds: Annotated[int, InUnits("rounds")] = 5
    """Planned rounds; privacy budgets are the total over them."""
    partition: Partition = field(default_factory=IID)
    """How the train split is divided among clients."""
    local: LocalTraining = field(default_factory=LocalTraining)
    """A client's local training."""
    flip: bool = False
    """Whether training images are mirrored with probability 1/2."""
    chunk: Annotated[int, InUnits("clients")] = 10
    """Participants whose updates are summed at a time; it changes rounding."""

    def __post_init__(self) -> None:
        require(1 <= self.clients <= MOST_CLIENTS, self, "clients", f"from 1 to {MOST_CLIENTS:,}")
        require(0 < self.fraction <= 1, self, "fraction", "in (0, 1]")
        require(self.rounds >= 1, self, "rounds", "at least 1")
        require(self.chunk >= 1, self, "chunk", "at least 1")

    @property
    def per_round(self) -> int:
        """How many clients take part in a round (at least one); with `poisson` about as many on average."""
        return max(1, math.floor(self.fraction * self.clients))

    @property
    def planned(self) -> float:
        """How many clients are meant to take part in a round, which is what one expects of a Poisson sample."""
        return self.fraction * self.clients if self.participation == "poisson" else float(self.per_round)

    @property
    def chunks_per_round(self) -> int:
        """How many chunks a round has, where all participants hold images: as many processes can work on it."""
        return math.ceil(self.per_round / self.chunk)
