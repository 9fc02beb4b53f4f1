"""Training of the patch mixture: how it is set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fl_core.base.types import Config, InUnits, require


@dataclass(frozen=True, kw_only=True)
class PatchTraining(Config):
    """A mixture of Gaussians over patches (Zoran and Weiss 2011), by expectation maximisation (Dempster et al. 1977).

    `passes` over `patches` random patches, mirrored ones among them. The Gaussians have full covariances in so many
    `directions`, the principal components of all patches.
    """

    patch: Annotated[int, InUnits("pixels")] = 6
    """The side of a patch."""
    components: Annotated[int, InUnits("components")] = 48
    """How many Gaussians there are."""
    directions: Annotated[int, InUnits("directions")] = 60
    """In how many directions a Gaussian has a covariance of its own; it has one variance in the others."""
    patches: Annotated[int, InUnits("patches")] = 30_000
    """How many random patches are learned from."""
    passes: Annotated[int, InUnits("passes")] = 15
    """How often all patches are gone through."""

    def __post_init__(self) -> None:
        require(2 <= self.patch <= 8, self, "patch", "from 2 to 8: the smallest image has 8 pixels a side")
        require(1 <= self.components <= 1000, self, "components", "from 1 to 1,000")
        least = 10 * self.components
        require(
            least <= self.patches <= 10_000_000,
            self,
            "patches",
            f"from 10 for each component, {least:,}, to 10,000,000",
        )
        require(1 <= self.directions <= 1000, self, "directions", "from 1 to 1,000")
        require(1 <= self.passes <= 1000, self, "passes", "from 1 to 1,000")
