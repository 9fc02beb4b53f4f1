"""Real numbers as whole ones: fixed point, and lanes of one big integer. Needs NumPy alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from fl_core.base.errors import NotSummable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Integers: TypeAlias = "NDArray[np.int64]"
Reals: TypeAlias = "NDArray[np.float64]"


@dataclass(frozen=True, kw_only=True)
class FixedPoint:
    """Real numbers as whole numbers of steps of 1 / `precision`, at most `limit` steps from zero.

    Rounding is to the nearest step, so a number is off by at most half a step and a sum of n by n halves. Sums of
    encoded numbers are exact: nothing depends on the order in which they are added.
    """

    precision: int
    limit: int

    def encode(self, values: NDArray[np.floating], where: Callable[[int], str] = str) -> Integers:
        """`values` in steps; raises `NotSummable` for one that is not finite or beyond the limit, named by `where`."""
        import numpy as np

        steps = np.rint(values.astype(np.float64) * self.precision)
        bad = ~(np.abs(steps) <= self.limit)
        if bad.any():
            index = int(bad.argmax())
            raise NotSummable(
                f"{where(index)} = {float(values[index]):.6g} cannot be summed exactly: must be finite and at most "
                f"{self.limit / self.precision:.6g} in magnitude, or sums wrap; clip updates or lower the precision."
            )
        return steps.astype(np.int64)

    def check(self, values: NDArray[np.floating], where: Callable[[int], str] = str) -> None:
        """Raise what `encode` would raise, at little cost where there is nothing to raise."""
        import numpy as np

        if not float(np.abs(values).max(initial=0.0)) * self.precision <= self.limit:
            self.encode(values, where)

    def decode(self, steps: Integers) -> Reals:
        """The numbers that `steps` stand for."""
        import numpy as np

        return steps.astype(np.float64) / self.precision


@dataclass(frozen=True, kw_only=True)
class Lanes:
    """Several signed numbers side by side in one big non-negative integer.

    A lane has `bits` bits, the upper `guard_bits` of which stay free so that 2^`guard_bits` packed integers can be
    added without a carry into the next lane. Numbers are shifted by an offset to be positive; unpacking takes the
    offset off as often as integers were added.
    """

    bits: Literal[32, 64]
    guard_bits: int
    count: int

    def __post_init__(self) -> None:
        if not (0 <= self.guard_bits <= self.bits - 2 and self.count >= 1):
            raise ValueError(f"{self} leaves no room for numbers.")

    @property
    def limit(self) -> int:
        """The largest magnitude that a lane takes."""
        return (1 << (self.bits - self.guard_bits - 1)) - 1

    @property
    def capacity(self) -> int:
        """How many packed integers may be added."""
        return 1 << self.guard_bits

    def words(self, numbers: int) -> int:
        """How many big integers hold so many numbers."""
        return -(-numbers // self.count)

    def pack(self, numbers: Integers) -> list[int]:
        """The big integers that hold `numbers`, each below 2^(bits * count); raises `ValueError` beyond `limit`."""
        import numpy as np

        if numbers.size and int(np.abs(numbers).max()) > self.limit:
            raise ValueError(f"A number is beyond {self.limit}, what a lane takes.")
        padded = np.zeros(self.words(numbers.size) * self.count, dtype=np.int64)
        padded[: numbers.size] = numbers
        lanes = (padded.astype(np.uint64) + np.uint64(self.limit + 1)).astype(self._dtype)
        width = self.count * self.bits // 8
        raw = lanes.tobytes()
        return [int.from_bytes(raw[i : i + width], "little") for i in range(0, len(raw), width)]

    def unpack(self, words: Sequence[int], numbers: int, addends: int) -> Integers:
        """The first `numbers` sums in `words`, which are sums of `addends` packed integers.

        Raises `ValueError` for more addends than the guard bits allow.
        """
        import numpy as np

        if not 1 <= addends <= self.capacity:
            raise ValueError(f"{addends} integers were added; the guard bits allow 1 to {self.capacity}.")
        width = self.count * self.bits // 8
        raw = b"".join(word.to_bytes(width, "little") for word in words)
        lanes = np.frombuffer(raw, dtype=self._dtype)[:numbers].astype(np.uint64)
        offset = np.uint64((addends * (self.limit + 1)) % (1 << 64))
        return (lanes - offset).view(np.int64)

    @property
    def _dtype(self) -> str:
        return f"<u{self.bits // 8}"


def guard_bits(clients: int) -> int:
    """How many bits the sum of `clients` numbers may be longer than a number."""
    return (clients - 1).bit_length()
