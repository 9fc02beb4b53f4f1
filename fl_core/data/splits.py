"""What a sweep file says of splits of data sets that come without one, or without a validation part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fl_core.base.types import Config, InUnits, require


@dataclass(frozen=True, kw_only=True)
class SeededSplit(Config):
    """Shares of a data set, drawn by `seed`; the rest of `train` and `valid` is the test split.

    A picture's place depends on the seed and on the picture's name: the pictures are put in the order of a hash of
    both, and cut at the shares. What each class has in a split follows from chance.
    """

    train: Annotated[float, InUnits("share")] = 0.8
    """Share of the train split."""
    valid: Annotated[float, InUnits("share")] = 0.1
    """Share of the validation split."""
    seed: int = 0
    """Fixes which picture is where."""

    def __post_init__(self) -> None:
        require(0 < self.train < 1, self, "train", "more than 0 and less than 1")
        require(
            0 < self.valid < 1 - self.train, self, "valid", "more than 0, and less than what train leaves"
        )

    def __str__(self) -> str:
        rest = 1 - self.train - self.valid
        return f"split {self.train:.0%} train, {self.valid:.0%} valid, {rest:.0%} test by seed {self.seed}"
