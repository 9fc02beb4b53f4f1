"""How a training set is split over clients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from fl_core.base.errors import InputError
from fl_core.base.rng import derive_seed
from fl_core.base.types import Config, require

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class IID(Config):
    """Every client draws from the same distribution; shares differ by at most one image."""

    kind: Literal["iid"] = "iid"


@dataclass(frozen=True, kw_only=True)
class Dirichlet(Config):
    """Each label's images go to clients in proportions from Dirichlet(alpha) (Hsu et al., 2019).

    Small `alpha` gives clients of almost one label; large `alpha` approaches IID.
    """

    kind: Literal["dirichlet"] = "dirichlet"
    alpha: float = 0.5

    def __post_init__(self) -> None:
        require(self.alpha > 0, self, "alpha", "more than 0")


Partition = IID | Dirichlet


def partition(
    labels: torch.Tensor, indices: Sequence[int], clients: int, how: Partition, *, seed: int
) -> list[list[int]]:
    """Disjoint lists of dataset indices, one for each client, that together are `indices`.

    `labels` (n,) is the whole dataset's. Raises `InputError` where there are fewer images than clients. Under
    `Dirichlet` a client may still end up with none; who asks for its update is told so.
    """
    if len(indices) < clients:
        raise InputError(
            f"{len(indices)} training images cannot be split over {clients} clients; use fewer clients."
        )

    import numpy as np

    rng = np.random.default_rng(derive_seed("partition", seed))
    order = rng.permutation(np.asarray(indices, dtype=np.int64))
    if isinstance(how, IID):
        return [sorted(part.tolist()) for part in np.array_split(order, clients)]
    shares: list[list[int]] = [[] for _ in range(clients)]
    order_labels = labels.numpy()[order]
    for label in np.unique(order_labels):
        mine = order[order_labels == label]
        cuts = np.cumsum(rng.dirichlet(np.full(clients, how.alpha)))[:-1]
        for share, part in zip(shares, np.split(mine, (cuts * len(mine)).round().astype(int)), strict=True):
            share.extend(part.tolist())
    return [sorted(share) for share in shares]
