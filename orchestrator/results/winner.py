"""Which suggestion wins a study of two objectives: the one rule that studies, summary and report share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Measured:
    """A finished suggestion: its number, its mean PSNR on the tuning victims in dB, and its work.

    `work` is the mean number of images that its attack differentiated twice for a victim; 0 where PSNR alone counts.
    """

    suggestion: int
    psnr: float
    work: float = 0.0


def choose(found: Iterable[Measured], *, within: float = 0.0) -> Measured | None:
    """The suggestion of least work among those at most `within` dB behind the best PSNR; None where there is none.

    Among suggestions of equal work the one of higher PSNR, and then the earlier. So the winner is on the front.
    """
    told = list(found)
    if not told:
        return None
    best = max(each.psnr for each in told)
    near = [each for each in told if each.psnr >= best - within]
    return min(near, key=lambda each: (each.work, -each.psnr, each.suggestion))


def front(found: Iterable[Measured]) -> list[Measured]:
    """The suggestions that no other beats in both PSNR and work, by rising work; of equal ones the earliest."""
    kept: list[Measured] = []
    for each in sorted(found, key=lambda one: (one.work, -one.psnr, one.suggestion)):
        if not kept or each.psnr > kept[-1].psnr:
            kept.append(each)
    return kept
