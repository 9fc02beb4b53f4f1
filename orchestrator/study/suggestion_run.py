"""One suggestion on its tuning victims: which of them start when, and how the suggestion ends."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

State = Literal["ok", "failed", "pruned"]


@dataclass(frozen=True)
class Outcome:
    """How a suggestion ended.

    `values` holds the PSNR in dB on the tuning victims that were attacked, in their order, None where there is none; of
    the short trials where `study.halving` ended it. `cost` is the time that the attacks took, in seconds or GPU-seconds
    as the study's budget has it. `work` is the mean number of images that they differentiated twice for a victim; None
    where it is not known of all.
    """

    state: State
    values: tuple[float | None, ...]
    cost: float = 0.0
    work: float | None = None

    @property
    def value(self) -> float | None:
        """The suggestion's value: the mean over all tuning victims in dB; None unless the state is `ok`."""
        return statistics.fmean(self.found) if self.state == "ok" else None

    @property
    def found(self) -> tuple[float, ...]:
        """The values that are there."""
        return tuple(value for value in self.values if value is not None)

    def costing(self, more: float) -> Outcome:
        """The same at a higher cost."""
        return replace(self, cost=self.cost + more)


class Evaluation:
    """Hands out the victims of one suggestion and says when the rest of them is not worth attacking.

    With `prune` (dB) and a `reference` (another suggestion's values on the same victims) they start one after
    the other; the rest is left out once one has failed, or once the suggestion is on average more than `prune`
    below the reference on those that it had. Otherwise all start at once: there is nothing to compare with.
    """

    def __init__(
        self, victims: int, *, prune: float | None = None, reference: Sequence[float] | None = None
    ) -> None:
        self._victims, self._prune, self._reference = victims, prune, reference
        self._started = 0
        self._values: dict[int, float | None] = {}
        self._cost = 0.0
        self._work: list[float | None] = []

    def ready(self) -> range:
        """The victims whose attacks can start now; each is handed out once."""
        first = self._started
        if self._prune is None or self._reference is None:
            self._started = self._victims
        elif len(self._values) == first and not self._dropped():
            self._started = min(first + 1, self._victims)
        return range(first, self._started)

    def take(self, victim: int, value: float | None, cost: float = 0.0, work: float | None = None) -> None:
        """Note the result on one victim: PSNR in dB, None for a failure, what it cost, and its work."""
        self._values[victim] = value if value is not None and math.isfinite(value) else None
        self._cost += cost
        self._work.append(work)

    def outcome(self) -> Outcome | None:
        """How the suggestion ended, or None while victims are out or still to come."""
        complete = len(self._values) == self._victims
        if len(self._values) < self._started or not (complete or self._dropped()):
            return None
        values = tuple(self._values[victim] for victim in range(self._started))
        state: State = "failed" if None in values else "ok" if complete else "pruned"
        return Outcome(state, values, self._cost, _mean_of_all(self._work))

    def _dropped(self) -> bool:
        if self._prune is None or self._reference is None or not self._values:
            return False
        values = list(self._values.items())
        if any(value is None for _, value in values):
            return True
        behind = statistics.fmean(
            self._reference[victim] - value for victim, value in values if value is not None
        )
        return behind > self._prune


def _mean_of_all(values: Sequence[float | None]) -> float | None:
    """The mean; None where a value is missing. Summed in order of size: results come back in any order."""
    found = sorted(value for value in values if value is not None)
    return statistics.fmean(found) if found and len(found) == len(values) else None
