"""Where an attack starts: random images, or the mean public one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from attack_core.signal.choices import Init
from fl_core.base.decibels import TINY
from fl_core.base.errors import InputError

Shape = tuple[int, int, int, int, int]
"""Candidates, images, 3, height, width."""


@dataclass(frozen=True, kw_only=True)
class InitSettings:
    """What random images look like besides their standard deviation."""

    noise_around_mean: float = 0.1
    """The share of the standard deviation that is left around the mean image.

    Enough to tell restarts apart; not measured against other values.
    """
    spectrum: float = 1.5
    """The exponent of `fourier`: the amplitude at frequency f is 1 / f^1.5, as of photographs (Field 1987)."""


INIT_SETTINGS = InitSettings()
"""The settings in force."""


def initial_images(
    kind: Init, shape: Shape, *, std: float, generator: torch.Generator, mean: Tensor | None = None
) -> Tensor:
    """Starting images of `shape` (C, B, channels, H, W), float32, on the CPU, in normalised pixels.

    - `normal`: white noise of standard deviation `std`.
    - `uniform`: white noise, uniform in +-sqrt(3) `std`, which has the same deviation.
    - `fourier`: noise with an amplitude spectrum 1/f^1.5, like photographs (Field 1987), rescaled to `std`
      image by image.
    - `pattern-n`: a normal n x n tile repeated over the image (Wei et al. 2020, arXiv:2004.10397). A tile that
      does not divide the image is cut at the border.
    - `mean`: the public `mean` image (channels, H, W) plus normal noise of `std` / 10.

    Raises `InputError` for `mean` where there is no mean image or one of another size.
    """
    match kind:
        case "normal":
            return torch.randn(shape, generator=generator) * std
        case "uniform":
            return (torch.rand(shape, generator=generator) * 2.0 - 1.0) * (math.sqrt(3.0) * std)
        case "fourier":
            return _photographic(torch.randn(shape, generator=generator), std)
        case "pattern-2" | "pattern-4" | "pattern-8":
            return _tiled(int(kind.removeprefix("pattern-")), shape, generator) * std
        case "mean":
            return _mean_image(mean, shape) + torch.randn(shape, generator=generator) * (
                INIT_SETTINGS.noise_around_mean * std
            )


def _photographic(noise: Tensor, std: float) -> Tensor:
    height, width = noise.shape[-2:]
    vertical = torch.fft.fftfreq(height)[:, None]
    horizontal = torch.fft.rfftfreq(width)[None, :]
    radius = (vertical.square() + horizontal.square()).sqrt().clamp_min(1.0 / max(height, width))
    coloured: Tensor = torch.fft.irfft2(
        torch.fft.rfft2(noise) * radius.pow(-INIT_SETTINGS.spectrum), s=(height, width)
    )
    centred = coloured - coloured.mean((-3, -2, -1), keepdim=True)
    spread = centred.std((-3, -2, -1), keepdim=True).clamp_min(TINY)
    return centred * (std / spread)


def _tiled(side: int, shape: Shape, generator: torch.Generator) -> Tensor:
    tile = torch.randn((*shape[:3], side, side), generator=generator)
    down, across = math.ceil(shape[-2] / side), math.ceil(shape[-1] / side)
    return tile.repeat(1, 1, 1, down, across)[..., : shape[-2], : shape[-1]]


def _mean_image(mean: Tensor | None, shape: Shape) -> Tensor:
    if mean is None:
        raise InputError("init 'mean' starts at the mean public image, but this observation has none.")
    if mean.shape != shape[2:]:
        raise InputError(
            f"The mean public image has shape {tuple(mean.shape)}; the attack's images have {shape[2:]}."
        )
    return mean.detach().cpu()
