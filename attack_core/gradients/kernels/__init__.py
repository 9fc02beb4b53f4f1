"""Cheaper exact kernels for convolutions of some shapes, in the place of the library's."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "few_channels": ["image_gradient"],
        "pooling": ["is_plain", "means_of"],
        "replaced": ["replaced"],
        "fixed": ["keep_transforms_of", "transforms_of"],
        "winograd": ["WINOGRAD_LIMITS", "WinogradLimits"],
    },
)
