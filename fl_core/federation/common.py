"""What all clients have before a round and can agree on: the weights and public images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from fl_core.base.types import ModelState
from fl_core.federation.aggregation import Reduction
from fl_core.federation.client import Batch

if TYPE_CHECKING:
    import torch
    from torch import nn

    from fl_core.data.dataset import ImageDataset


@dataclass(frozen=True, kw_only=True)
class Common:
    """The network, the global weights at the start of a round, and the data set whose public images all have."""

    model: nn.Module
    state: ModelState
    dataset: ImageDataset
    device: torch.device

    def public(self, count: int) -> Batch:
        """The first `count` public images and their labels: the test split, which is no client's.

        Raises `InputError` where there are fewer.
        """
        images, labels = self.dataset.batch(self.dataset.split("test", count))
        return images.to(self.device), labels.to(self.device)


@runtime_checkable
class Agreeing(Protocol):
    """A reduction whose parties settle something from what is common before each round."""

    def agree(self, common: Common) -> Reduction[Any]:
        """The same with what was settled."""
