"""How close a reconstruction is to the truth, and the controls that it is compared with."""

from __future__ import annotations

from attack_core.metrics.controls import norm_matched_noise
from attack_core.metrics.metrics import (
    EXACT_DB,
    SSIM_WINDOW,
    Lpips,
    assign,
    label_accuracy,
    load_lpips,
    mse,
    psnr,
    psnr_range4,
    ssim,
    to_unit,
)

__all__ = [
    "assign",
    "EXACT_DB",
    "label_accuracy",
    "load_lpips",
    "Lpips",
    "mse",
    "norm_matched_noise",
    "psnr",
    "psnr_range4",
    "ssim",
    "SSIM_WINDOW",
    "to_unit",
]
