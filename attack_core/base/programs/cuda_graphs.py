"""Programs recorded as CUDA graphs, which start all of their operations at once.

On a GPU an iteration of a small network is hundreds of operations that take a few microseconds each, and the host needs
longer to start one than the GPU to compute it.
"""

from __future__ import annotations

import torch

from attack_core.base.programs.program import Program, Values
from attack_core.base.programs.recorded import Replay, not_recorded


class CudaGraphs:
    """Records programs as CUDA graphs that share their memory: they are replayed one after the other."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, program: Program, inputs: Values) -> Replay:
        """See `Record`."""
        graph, device = torch.cuda.CUDAGraph(), inputs[0].device
        held = tuple(each.detach().clone() for each in inputs)
        before = torch.cuda.current_stream(device)
        try:
            with torch.cuda.device(device), torch.cuda.graph(graph, pool=self._pool):
                outputs = program(*held)
        except Exception as error:
            raise not_recorded("run as a CUDA graph", error) from error
        finally:
            # A recording that failed leaves its own.
            torch.cuda.set_stream(before)

        def replay(new: Values) -> Values:
            for there, value in zip(held, new, strict=True):
                there.copy_(value)
            graph.replay()
            return tuple(each.clone() for each in outputs)

        return replay
