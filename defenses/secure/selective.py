"""Selective encryption: the most sensitive numbers go through a secure sum, the rest in the clear.

The idea of FedML-HE (Jin et al., 2023): where encryption is too dear for a whole update, encrypt the part that
gives the images away. What stays in the clear is part of what the server sees.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from fl_core.base.types import Config, InUnits, require
from fl_core.federation.common import Common

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Selective(Config):
    """Encrypt the most sensitive `fraction` of a model's parameters, and all buffers; send the rest in the clear.

    What is sensitive all parties work out before a round, each for itself, from the round's weights and the first
    `images` public images, so that the choice tells nothing of a client.
    """

    fraction: Annotated[float, InUnits("share")]
    images: Annotated[int, InUnits("images")] = 8

    def __post_init__(self) -> None:
        require(0 < self.fraction <= 1, self, "fraction", "in (0, 1], the share of parameters to encrypt")
        require(self.images >= 1, self, "images", "at least 1 public image to tell what is sensitive")

    def count(self, parameters: int) -> int:
        """How many of so many parameters are encrypted."""
        return math.ceil(self.fraction * parameters)

    def masks(self, common: Common) -> dict[str, Tensor]:
        """What is encrypted (True) in a round, by parameter name, on the CPU; raises as `Common.public` does."""
        from defenses.secure.sensitivity import most_sensitive, sensitivity

        found = sensitivity(common.model, common.state, *common.public(self.images))
        return most_sensitive(found, self.fraction)
