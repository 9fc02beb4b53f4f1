"""The size of pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fl_core.base.errors import InputError, natural

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class ImageShape:
    """The size of every picture that a network is given, in pixels; one channel is grey, three are RGB."""

    channels: int = 3
    height: int
    width: int

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise InputError(f"{self.channels} channels: must be 1 (grey) or 3 (RGB).")
        for name, side in (("height", self.height), ("width", self.width)):
            if side < 1:
                raise InputError(f"A {name} of {side} pixels is too small; use 1 or more.")

    @classmethod
    def square(cls, side: int, channels: int = 3) -> ImageShape:
        """A square of `side` pixels."""
        return cls(channels=channels, height=side, width=side)

    @classmethod
    def parse(cls, text: str) -> ImageShape:
        """The shape that `3x48x32` (channels, height, width) or `48x32` (RGB) spells; raises `InputError`."""
        sides = [natural(part) for part in text.split("x")]
        if len(sides) not in (2, 3) or None in sides:
            raise InputError(f"{text!r} is no size; write CHANNELSxHEIGHTxWIDTH, such as 3x64x64 or 1x28x28.")
        channels, height, width = [side for side in (3, *sides)[-3:] if side is not None]
        return cls(channels=channels, height=height, width=width)

    @property
    def numbers(self) -> int:
        """How many numbers a picture has."""
        return self.channels * self.height * self.width

    @property
    def size(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return self.channels, self.height, self.width

    def empty(self, images: int, device: str) -> torch.Tensor:
        """Pictures (B, C, H, W) float32 without values."""
        import torch

        return torch.empty(images, *self.size, device=device)

    @property
    def pixels(self) -> str:
        """The size in words: `64` for a square, else `48x32` (height, width)."""
        return f"{self.height}" if self.height == self.width else f"{self.height}x{self.width}"

    def __str__(self) -> str:
        return f"{self.channels}x{self.height}x{self.width}"
