"""The pictures that a network takes: their size, and what is done to pixels before the network sees them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fl_core.base.errors import InputError
from fl_core.base.shape import ImageShape

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """The pictures that a network takes.

    `mean` and `std` hold a number for each channel: the network is given (pixel - mean) / std of pixels in [0, 1].
    None, or 0 and 1, gives it the pixels as they are; 0.5 and 0.5 gives it pixels in [-1, 1].
    """

    channels: int = 3
    height: int
    width: int
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None

    def __post_init__(self) -> None:
        for name in ("channels", "height", "width"):
            if type(value := getattr(self, name)) is not int:
                raise InputError(f"ImageSpec.{name} = {value!r}: must be a whole number.")
        size = self.shape
        for name, other in (("mean", self.std), ("std", self.mean)):
            values = getattr(self, name)
            if (values is None) != (other is None):
                raise InputError(f"ImageSpec.{name}: give mean and std together, or neither.")
            if values is not None and len(values) != size.channels:
                raise InputError(
                    f"ImageSpec.{name} has {len(values)} numbers: must be one for each of {self.channels} channels."
                )
            if values is not None and not all(map(math.isfinite, values)):
                raise InputError(f"ImageSpec.{name} = {tuple(values)}: must be finite numbers.")
        if self.std is not None and min(self.std) <= 0:
            raise InputError(f"ImageSpec.std = {tuple(self.std)}: must be above 0.")

    @property
    def shape(self) -> ImageShape:
        """The size alone."""
        return ImageShape(channels=self.channels, height=self.height, width=self.width)

    @property
    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation for each channel, of pixels in [0, 1]."""
        mean = (0.0,) * self.channels if self.mean is None else tuple(map(float, self.mean))
        std = (1.0,) * self.channels if self.std is None else tuple(map(float, self.std))
        return mean, std

    def check(self, pictures: Tensor, what: str) -> Tensor:
        """`pictures` (N, C, H, W) with pixels in [0, 1] as float32 in [-1, 1]; raises `InputError` for others."""
        import torch

        if (
            not isinstance(pictures, torch.Tensor)
            or pictures.dim() != 4
            or tuple(pictures.shape[1:]) != self.shape.size
        ):
            shape = tuple(pictures.shape) if isinstance(pictures, torch.Tensor) else type(pictures).__name__
            raise InputError(
                f"{what} is {shape}: must be a tensor of shape (N, {self.channels}, {self.height}, {self.width})."
            )
        if pictures.dtype == torch.uint8:
            raise InputError(f"{what} holds bytes: divide by 255, pixels go from 0 to 1.")
        found = pictures.detach().float()
        if not len(found) or not bool(((found >= 0) & (found <= 1)).all()):
            raise InputError(f"{what} must hold pixels from 0 to 1, at least one picture of them.")
        return found * 2 - 1


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """What an attack needs to know of a network besides the module; see `fl_core.models.config.Network`."""

    shape: ImageShape
    outputs: int
