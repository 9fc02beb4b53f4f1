"""One round of a secure sum in parts that may lie in different processes: who protects, who adds, who opens."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from defenses.secure.fixed_point import FixedPoint, Integers
from defenses.secure.keys import Ciphertexts
from defenses.secure.selective import Selective
from fl_core.base.types import Protection


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A sum in steps, and the most bytes that one client sent beside its upload."""

    steps: Integers
    extra_bytes: int = 0


class Exchange(Protocol):
    """The parties of one round after their keys are made.

    An upload is a sequence of blocks, so that one block of one client is all that is held beside a sum.
    """

    @property
    def fixed(self) -> FixedPoint:
        """How numbers become steps."""

    @property
    def setup_seconds(self) -> float:
        """CPU seconds that all parties took for keys."""

    def for_clients(self, clients: Sequence[int]) -> Exchange:
        """What these clients hold, as bytes and numbers; nothing that opens a sum."""

    def blocks(self, client: int, steps: Integers) -> Iterator[Ciphertexts]:
        """A client's update, protected block by block."""

    def add(self, left: Ciphertexts, right: Ciphertexts) -> Ciphertexts:
        """The sum of two blocks, of uploads or of sums, without opening them."""

    def reveal(self, total: Sequence[Ciphertexts], *, numbers: int, clients: Sequence[int]) -> Opened:
        """The sum of the uploads of `clients`, all blocks of it. Raises `InputError` where it must stay closed."""


class Scheme(Protocol):
    """How updates are hidden in a sum, as far as the sum itself needs it; see `defenses.secure.protection`."""

    @property
    def protection(self) -> Protection:
        """What keeps single updates from the server."""

    @property
    def lost(self) -> float:
        """The fraction of a round's clients that drop out after they have protected their update."""

    @property
    def chosen(self) -> Selective | None:
        """Which numbers are protected, where not all are."""

    def exchange(self, clients: Sequence[int]) -> Exchange:
        """Fresh keys for one round of these clients."""


def dropouts(fraction: float, clients: int) -> int:
    """How many of a round's clients drop out: the fraction, rounded down, and never all."""
    return min(math.floor(fraction * clients + 1e-9), clients - 1)
