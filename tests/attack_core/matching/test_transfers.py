"""How often the matching loop asks a device for a number: a GPU stands still meanwhile."""

from __future__ import annotations

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from fl_core.data.dataset import ImageDataset
from tests.support.matched import attacked, observed


class Reads(TorchDispatchMode):
    """Counts the operators by which a tensor's number reaches the host."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += "_local_scalar_dense" in str(func) or "is_nonzero" in str(func)
        return func(*args, **(kwargs or {}))


def test_an_iteration_reads_no_single_number(faces: ImageDataset) -> None:
    observation, _ = observed(faces, labels="known")
    counts = []
    for iterations in (3, 13):
        with Reads() as reads:
            # Adam counts its steps in tensors of the host, on every device, and reads them.
            attacked(observation, iterations=iterations, restarts=2, optimizer="sgd", lr=0.01)
        counts.append(reads.count)
    # The losses are read once an iteration, all of them together, which is no read of a single number.
    assert counts[0] == counts[1]
