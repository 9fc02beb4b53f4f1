"""What a descent has evaluated so far, and what that cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from attack_core.base.types import Progress, Reconstruction

ONE_BACKWARD = 1 / 3
"""What an evaluation of features costs beside that of a gradient: one backward pass in the place of two, and no weight
gradients. Counted, not timed."""


@dataclass
class Evaluations:
    """What a descent has evaluated so far: each mismatch, and the images differentiated twice in all."""

    mismatches: list[float] = field(default_factory=list)
    work: float = 0.0


def reporter(
    seen: Evaluations, planned: int, progress: Progress | None, *, each: float = ONE_BACKWARD
) -> Callable[[float], None]:
    """What notes each evaluation in `seen`, and tells `progress` of `planned` ones.

    `each` is how many images an evaluation differentiates twice.
    """

    def report(mismatch: float) -> None:
        seen.mismatches.append(mismatch)
        seen.work += each
        if progress is not None:
            done = len(seen.mismatches)
            progress(done, max(planned, done), min(seen.mismatches))

    return report


def with_cost_of(found: Reconstruction, other: Reconstruction) -> Reconstruction:
    """The answer `found`, at the cost of both."""
    work = None if found.work is None or other.work is None else found.work + other.work
    return replace(found, iterations=found.iterations + other.iterations, work=work)
