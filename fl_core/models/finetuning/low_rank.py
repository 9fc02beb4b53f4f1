"""What a sweep file says of low-rank adapters (LoRA, Hu et al. 2022, arXiv:2106.09685)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fl_core.base.types import Config, InUnits, require

MOST_RANK = 4096
"""A larger rank is a slip of the keyboard."""


@dataclass(frozen=True, kw_only=True)
class LowRankConfig(Config):
    """Adapters of linear layers: W x + b becomes W x + b + alpha / rank * up(down(x)).

    `down` (rank, inputs) starts as PyTorch starts linear layers, uniform in +-1/sqrt(inputs), and `up` (outputs, rank)
    at 0, so that the network begins as it was. Clients train the adapters, and what `model.trainable` names besides.
    """

    layers: tuple[str, ...]
    """Names of linear layers, or patterns such as `blocks.*.attention.qkv`."""
    rank: Annotated[int, InUnits("numbers")] = 8
    """Numbers between `down` and `up`."""
    alpha: float = 8.0
    """The product counts alpha / rank times."""

    def __post_init__(self) -> None:
        require(bool(self.layers), self, "layers", "a list of one name or pattern at least")
        require(1 <= self.rank <= MOST_RANK, self, "rank", f"from 1 to {MOST_RANK}")
        require(self.alpha > 0, self, "alpha", "above 0")
