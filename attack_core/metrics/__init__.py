"""How close a reconstruction is to the truth, and the controls that it is compared with."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "controls": ["norm_matched_noise"],
        "metrics": [
            "Lpips",
            "SSIM_WINDOW",
            "assign",
            "label_accuracy",
            "load_lpips",
            "mse",
            "psnr",
            "psnr_range4",
            "ssim",
            "to_unit",
        ],
    },
)
