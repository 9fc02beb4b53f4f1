"""Convolutions' inputs by linear algebra, from the row space of the gradients of their weights."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "batch_space": ["in_front", "in_order", "patch_pairs"],
        "calls": ["ConvolutionCall", "convolution_calls"],
        "patch_space": ["PATCH_LIMITS", "ConvolutionInput", "convolution_inputs", "input_from_rows"],
    },
)
