"""What a candidate's local training would have done: simulated steps, and the noise of a bottleneck."""

from __future__ import annotations

from attack_core.local_sgd.simulation import (
    Averaged,
    Count,
    LocalModel,
    LocalProblem,
    Simulated,
    merge_copies,
)

__all__ = [
    "Averaged",
    "Count",
    "LocalModel",
    "LocalProblem",
    "merge_copies",
    "Simulated",
]
