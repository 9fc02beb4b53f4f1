"""A certificate: what the equations that an image was found by say of how well they determine it.

An attack that solves equations knows more of its answer than how well it explains the signal: in how many directions
of the image the equations have a say, by how much they amplify errors, and what the answer leaves of them. Together
these bound how far the image can be from the one that the client trained on, as far as the map from image to equations
is linear.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["exact", "determined", "open"]
"""What a certificate comes to.

- `exact`: the equations determine every direction of the image, and the answer explains them so well that no other
  image that is 40 dB from it or less does.
- `determined`: they determine every direction, but the answer leaves too much of them, or nothing checks them.
- `open`: some directions of the image change nothing that was read, or were not shown to.
"""
Reach = Literal["everywhere", "nearby"]
"""`everywhere`: the equations are linear. `nearby`: they are at the answer, so that an image far away might do too."""


@dataclass(frozen=True, kw_only=True)
class CertificateLimits:
    """When a certificate is given."""

    exact: float = 40.0
    """In dB: from this on an image counts as exact. An image is not told from another one that is as close by eye."""
    pixel: float = 2.0**-23
    """What float32 rounds a pixel by at most, on the way from the answer to [0, 1]."""


CERTIFICATE_LIMITS = CertificateLimits()
"""The limits in force."""


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """How well the equations behind one image determine it.

    `rank` of the image's `unknowns` (its numbers) are determined. `condition` is the largest singular value of the map
    from image to equations over the smallest; infinite where `rank` is smaller than `unknowns`. `residual` is the
    relative L2 distance that the answer leaves of the equations. `psnr` is the least that these leave room for, in dB
    with range 1 on pixels in [0, 1]; minus infinite where nothing follows.
    """

    unknowns: int
    rank: int
    condition: float
    residual: float
    psnr: float
    reach: Reach

    @property
    def verdict(self) -> Verdict:
        """The certificate in a word."""
        if self.rank < self.unknowns:
            return "open"
        return "exact" if self.psnr >= CERTIFICATE_LIMITS.exact else "determined"

    @property
    def words(self) -> str:
        """The certificate in a sentence."""
        if self.verdict == "open":
            return f"open: the equations determine {self.rank} of the image's {self.unknowns} directions"
        where = "" if self.reach == "everywhere" else " near the answer"
        solved = f"all {self.unknowns} directions determined{where}, condition {self.condition:.1e}"
        if self.verdict == "exact":
            return f"exact: {solved}; at least {self.psnr:.0f} dB"
        if math.isinf(self.psnr):
            return f"determined, not certified: {solved}; no equation is left over to check the others by"
        return (
            f"determined, not certified: {solved}; what the answer leaves of them promises {self.psnr:.0f} dB"
        )


def undetermined(unknowns: int, rank: int, residual: float, reach: Reach) -> Certificate:
    """The certificate of an image of which the equations determine `rank` directions at most."""
    return Certificate(
        unknowns=unknowns,
        rank=min(rank, unknowns - 1),
        condition=math.inf,
        residual=residual,
        psnr=-math.inf,
        reach=reach,
    )


def least_psnr(distance: float, unknowns: int) -> float:
    """The PSNR in dB of an image of so many `unknowns`, at an L2 `distance` in pixels of [-1, 1] from the truth."""
    if not math.isfinite(distance):
        return -math.inf
    # [-1, 1] is twice as wide as [0, 1]. The pixels themselves are float32.
    return -20.0 * math.log10(distance / 2.0 / math.sqrt(unknowns) + CERTIFICATE_LIMITS.pixel)
