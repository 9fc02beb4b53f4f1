"""How close images are to each other: scores, and the assignment, which attacks use on their own images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_msssim
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

SSIM_WINDOW = 11
"""Pixels on a side of the window of SSIM."""

_ALEXNET = "alexnet-owt-7be5be79.pth"


def to_unit(images: Tensor) -> Tensor:
    """From normalised pixels in [-1, 1] to [0, 1], clamped."""
    return ((images + 1.0) / 2.0).clamp(0.0, 1.0)


def mse(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared error on [0, 1] pixels of equally many images (N, 3, S, S) in [-1, 1]; (N,)."""
    return (to_unit(a) - to_unit(b)).square().flatten(1).mean(1)


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB with range 1, (N,); infinite for equal images."""
    return -10.0 * torch.log10(mse(a, b))


def psnr_range4(a: Tensor, b: Tensor) -> Tensor:
    """The original project's figure, range 4 on images in [-1, 1] (dB, 6.02 above `psnr`), (N,)."""
    return psnr(a, b) + 20.0 * torch.log10(torch.tensor(2.0))


def ssim(a: Tensor, b: Tensor) -> Tensor | None:
    """Structural similarity, Gaussian window of 11 px and sigma 1.5, range 1 (Wang et al. 2004), (N,).

    None for images that the window does not fit into: a smaller one would give figures that compare with no others.
    """
    if min(a.shape[-2:]) < SSIM_WINDOW:
        return None
    values: Tensor = pytorch_msssim.ssim(
        to_unit(a), to_unit(b), data_range=1.0, size_average=False, win_size=SSIM_WINDOW, win_sigma=1.5
    )
    return values


@dataclass(frozen=True)
class Lpips:
    """LPIPS with an AlexNet backbone (Zhang et al., CVPR 2018), or the reason why it cannot be computed."""

    distance: Callable[[Tensor, Tensor], Tensor] | None
    reason: str = ""


def load_lpips() -> Lpips:
    """LPIPS where AlexNet's weights lie in torch hub's checkpoint folder with the right hash.

    Nothing is downloaded. Without the file, or with one whose SHA-256 does not begin as its name says,
    `distance` is None and `reason` says so.
    """
    weights = Path(torch.hub.get_dir()) / "checkpoints" / _ALEXNET
    if not weights.is_file():
        return Lpips(
            None,
            f"LPIPS is left out: there is no {weights}; put torchvision's AlexNet weights of this name there, or name "
            "another torch hub folder with TORCH_HOME.",
        )
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith("7be5be79"):
        return Lpips(
            None,
            f"LPIPS is left out: the hash of {weights} begins with {digest[:8]}, not 7be5be79; put torchvision's "
            "file there.",
        )
    import lpips

    network: Any = lpips.LPIPS(net="alex", verbose=False).eval()

    @torch.no_grad()
    def distance(a: Tensor, b: Tensor) -> Tensor:
        value: Tensor = network(_coloured(a), _coloured(b)).flatten()
        return value

    return Lpips(distance)


def _coloured(images: Tensor) -> Tensor:
    """Images (N, C, H, W) as LPIPS takes them: clamped, in three channels."""
    return images.clamp(-1.0, 1.0).expand(-1, 3, -1, -1)


def assign(images: Tensor, truth: Tensor) -> list[int | None]:
    """For each true image the index of the reconstruction that stands for it, or None where there are too few.

    The assignment of least total MSE (rectangular Hungarian), each reconstruction used at most once.
    """
    costs = (to_unit(images)[None] - to_unit(truth)[:, None]).square().flatten(2).mean(2)
    rows, columns = linear_sum_assignment(costs.numpy())
    chosen = dict(zip(rows.tolist(), columns.tolist(), strict=True))
    return [chosen.get(i) for i in range(len(truth))]


def label_accuracy(found: Tensor, truth: Tensor) -> float:
    """Share of the true labels (N,) that are among the found ones (M,), each found one used once; order is free.

    The overlap of the two multisets over N. Integers; not negative.
    """
    classes = int(torch.cat([found, truth]).max()) + 1
    overlap = torch.minimum(found.bincount(minlength=classes), truth.bincount(minlength=classes))
    return int(overlap.sum()) / len(truth)
