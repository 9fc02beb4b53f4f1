"""What a defense is that hides single updates in a sum."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from defenses.mechanism.base import Mechanism, Stage
from defenses.secure.exchange import Exchange
from defenses.secure.selective import Selective
from fl_core.base.types import Protection
from fl_core.federation.aggregation import FedAvg, Reduction
from fl_core.federation.rounds import FederationConfig

if TYPE_CHECKING:
    from defenses.secure.mean import SecureMean


class SumProtection(Mechanism, ABC):
    """Base of the defenses that hide single updates in a sum."""

    stage: ClassVar[Stage] = "sum"
    protection: ClassVar[Protection]

    @property
    def lost(self) -> float:
        """The fraction of a round's clients that drop out after they have protected their update."""
        return 0.0

    @property
    def chosen(self) -> Selective | None:
        """Which numbers are protected, where not all are."""
        return None

    def protected_numbers(self, parameters: int, buffers: int) -> int:
        """How many numbers of an update of so many go through the scheme."""
        return buffers + (parameters if self.chosen is None else self.chosen.count(parameters))

    @abstractmethod
    def exchange(self, clients: Sequence[int]) -> Exchange:
        """Fresh keys for one round of these clients, from the operating system's randomness."""

    def check_round(self, clients: int) -> None:
        """Raise `InputError` where rounds of so many clients cannot be summed."""

    def on_sum(self, reduction: Reduction[Any], *, seed: int, plan: FederationConfig) -> SecureMean:
        """The mean that `reduction` takes, of protected updates; see `Mechanism.on_sum`."""
        if not isinstance(reduction, FedAvg):
            raise TypeError(f"A secure sum takes the place of a mean, not of {type(reduction).__name__}.")

        from defenses.secure.mean import SecureMean

        return SecureMean(scheme=self, mean=reduction, seed=seed)
