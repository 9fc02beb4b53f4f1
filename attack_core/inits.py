"""Where an attack starts: random images."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Init = Literal["normal", "fourier"]


def initial_images(
    kind: Init, shape: tuple[int, int, int, int, int], *, std: float, generator: torch.Generator
) -> Tensor:
    """Starting images of `shape` (C, B, 3, S, S), float32, on the CPU, zero mean.

    `normal` is white noise of standard deviation `std`; `fourier` is noise with an amplitude spectrum
    1/f^1.5, like photographs (Field 1987), rescaled to `std` image by image.
    """
    noise = torch.randn(shape, generator=generator)
    if kind == "normal":
        return noise * std
    size = shape[-1]
    vertical = torch.fft.fftfreq(size)[:, None]
    horizontal = torch.fft.rfftfreq(size)[None, :]
    radius = (vertical.square() + horizontal.square()).sqrt().clamp_min(1.0 / size)
    coloured: Tensor = torch.fft.irfft2(torch.fft.rfft2(noise) * radius.pow(-1.5), s=(size, size))
    centred = coloured - coloured.mean((-3, -2, -1), keepdim=True)
    spread = centred.std((-3, -2, -1), keepdim=True).clamp_min(1e-12)
    return centred * (std / spread)
